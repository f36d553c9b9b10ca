"""Seconds and rates as people say them."""


def duration(seconds: float) -> str:
    """For example "3 h 05 min", "2 min 07 s", "9 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def row_rate(rate: float) -> str:
    """For example "12.34 row/s", "0.25 row/s", "0.0031 row/s"."""
    return f"{rate:.2f} row/s" if rate >= 0.1 or rate == 0 else f"{rate:#.2g} row/s"
