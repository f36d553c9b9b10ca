"""Small line plots as inline SVG, written here: nothing to load, nothing to run.

Colours come from the page (classes `line`, `fill`, `band`, `grid`, `dot`, `span` and `copy` inside
`svg.plot`), so that a plot follows its light and dark dress. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup

# Units of the view box; the page scales the whole. Margins hold the labels.
WIDTH, HEIGHT = 240, 92
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 48, 10, 17
# More points than this cannot be told apart at the size of a plot, and make pages heavy.
MAX_POINTS = 160


def number(value: float) -> str:
    """A value in about three digits: `0.0312`, `41.7`, `12,300`, `2.1e-07`."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def line_plot(
    title: str,
    values: Sequence[float],
    *,
    shaded: int = 0,
    x_ends: tuple[str, str] | None = None,
    low: float | None = None,
    high: float | None = None,
    filled: bool = False,
    width: int = WIDTH,
) -> Markup | None:
    """One line over evenly spaced steps, its range and its last value labelled.

    Args:
        title: what is plotted; for readers who do not see the plot.
        values: one for each step; gaps (NaN, infinities) interrupt the line.
        shaded: the first so many steps lie on a shaded band.
        x_ends: labels of the first and the last step; their numbers, from 1, when not given.
        low, high: ends of the y axis, widened where values lie beyond; theirs when not given.
        filled: the area down to the lower end is tinted.
        width: of the view box; a wider one has smaller labels.

    Returns:
        The SVG, or None when no value is finite.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    bottom = min(finite) if low is None else min(low, *finite)
    top = max(finite) if high is None else max(high, *finite)
    first, last = x_ends or ("1", str(len(values)))
    place = _Placement(len(values), bottom, top, width)
    parts = [_band(place, shaded), _grid(place)]
    parts += [_run(place, run, filled) for run in _runs(values)]
    end = max(step for step, value in enumerate(values) if math.isfinite(value))
    parts += _labels(place, (bottom, top), (first, last), (end, values[end]))
    label = f"{title}: {_span(bottom, top)}, ends at {number(values[end])}"
    return _svg(width, HEIGHT, label, parts)


def band_plot(
    title: str,
    low: Sequence[float],
    middle: Sequence[float],
    high: Sequence[float],
    *,
    shaded: int = 0,
) -> Markup | None:
    """A line over evenly spaced steps within a band; range and last value of the line labelled.

    Args:
        title: what is plotted; for readers who do not see the plot.
        low, middle, high: one each for each step; all are NaN where a step has none.
        shaded: the first so many steps lie on a shaded band.

    Returns:
        The SVG, or None when no value of the line is finite.
    """
    known = [step for step, value in enumerate(middle) if math.isfinite(value)]
    if not known:
        return None
    bottom, top = min(low[step] for step in known), max(high[step] for step in known)
    place = _Placement(len(middle), bottom, top, WIDTH)
    parts = [_band(place, shaded), _grid(place)]
    for run in _runs(middle):
        steps = [step for step, _ in run]
        # As many on either edge as a line has at most: tenths are smooth, no peak gets lost.
        some = sorted({*steps[:: max(1, len(steps) // MAX_POINTS)], steps[-1]})
        edge = [(step, high[step]) for step in some] + [(step, low[step]) for step in some[::-1]]
        points = "L".join(f"{_at(place.x(step))} {_at(place.y(value))}" for step, value in edge)
        parts += [Markup('<path class="fill" d="M{}Z"/>').format(points), _run(place, run, False)]
    end = known[-1]
    parts += _labels(place, (bottom, top), ("1", str(len(middle))), (end, middle[end]))
    label = (
        f"{title}: median ends at {number(middle[end])}, "
        f"80 % of the rows at {number(low[end])} to {number(high[end])}"
    )
    return _svg(WIDTH, HEIGHT, label, parts)


def interval_plot(
    title: str,
    value: float,
    low: float,
    high: float,
    content: float | None = None,
    style: float | None = None,
) -> Markup | None:
    """A value with its interval, on an axis with what copies of content and style reach.

    Returns:
        The SVG, or None when there is nothing to compare with, or a number is not finite.
    """
    others = [other for other in (content, style) if other is not None]
    numbers = [value, low, high, *others]
    if not others or not all(map(math.isfinite, numbers)) or min(numbers) == max(numbers):
        return None
    width, height = 150, 18
    left, right = min(numbers), max(numbers)

    def x(number: float) -> float:
        return 6 + (width - 12) * ((number / 2 - left / 2) / (right / 2 - left / 2))

    middle = height // 2
    parts = [Markup('<path class="grid" d="M6 {}H{}"/>').format(middle, width - 6)]
    if content is not None:
        mark = Markup('<circle class="copy" cx="{}" cy="{}" r="3.5"/>')
        parts.append(mark.format(_at(x(content)), middle))
    if style is not None:
        mark = Markup('<rect class="copy" x="{}" y="{}" width="7" height="7"/>')
        parts.append(mark.format(_at(x(style) - 3.5), middle - 3.5))
    parts += [
        Markup('<path class="span" d="M{} {}H{}"/>').format(_at(x(low)), middle, _at(x(high))),
        Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(_at(x(value)), middle),
    ]
    return _svg(width, height, title, parts)


def _svg(width: int, height: int, label: str, parts: Sequence[Markup]) -> Markup:
    svg = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(width, height, label, Markup("").join(parts))


def _labels(
    place: _Placement, y_ends: tuple[float, float], x_ends: tuple[str, str], end: tuple[int, float]
) -> list[Markup]:
    """Of both axes, and of the last value, which has a dot."""
    bottom, top = y_ends
    step, value = end
    x, y = place.x(step), place.y(value)
    parts = [
        Markup('<circle class="dot" cx="{}" cy="{}" r="2.6"/>').format(_at(x), _at(y)),
        _text(x + 6, y + 3.5, "start", number(value), "last"),
    ]
    if top > bottom:
        parts.append(_text(_LEFT - 6, _TOP + 3.5, "end", number(top)))
    parts.append(_text(_LEFT - 6, place.y(bottom) + 3.5, "end", number(bottom)))
    parts.append(_text(_LEFT, HEIGHT - 3, "start", x_ends[0]))
    if place.steps > 1:
        parts.append(_text(place.right, HEIGHT - 3, "end", x_ends[1]))
    return parts


class _Placement:
    """Where steps and values lie in the view box."""

    def __init__(self, steps: int, bottom: float, top: float, width: int) -> None:
        self.right = width - _RIGHT
        self.steps = steps
        self._bottom = bottom
        self._top = top

    def x(self, step: float) -> float:
        return _LEFT + (self.right - _LEFT) * (step / (self.steps - 1) if self.steps > 1 else 0.5)

    def y(self, value: float) -> float:
        inner = HEIGHT - _TOP - _BOTTOM
        if self._top == self._bottom:
            return _TOP + inner / 2
        # Halved first: the difference of two large floats may overflow where the share does not.
        share = (value / 2 - self._bottom / 2) / (self._top / 2 - self._bottom / 2)
        return _TOP + inner * (1 - share)


def _band(place: _Placement, steps: int) -> Markup:
    if steps < 1:
        return Markup("")
    left = place.x(0)
    # Up to half way to the next step, so that a band of one step can be seen.
    right = min(place.x(steps - 0.5), place.right)
    return Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>').format(
        _at(left), _TOP - 4, _at(max(right - left, 1)), HEIGHT - _TOP - _BOTTOM + 4
    )


def _grid(place: _Placement) -> Markup:
    floor = HEIGHT - _BOTTOM
    return Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, floor, place.right)


def _runs(values: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    """(step, value) pairs between gaps."""
    for is_finite, run in groupby(enumerate(values), key=lambda pair: math.isfinite(pair[1])):
        if is_finite:
            yield list(run)


def _run(place: _Placement, run: Sequence[tuple[int, float]], filled: bool) -> Markup:
    points = [(_at(place.x(step)), _at(place.y(value))) for step, value in thin(run)]
    if len(points) == 1:
        ((x, y),) = points
        return Markup('<circle class="dot" cx="{}" cy="{}" r="1.4"/>').format(x, y)
    line = "M" + "L".join(f"{x} {y}" for x, y in points)
    drawn = Markup('<path class="line" d="{}"/>').format(line)
    if not filled:
        return drawn
    floor = HEIGHT - _BOTTOM
    area = f"{line}L{points[-1][0]} {floor}L{points[0][0]} {floor}Z"
    return Markup('<path class="fill" d="{}"/>').format(area) + drawn


def thin(run: Sequence[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most about `most` of the points, with both ends, and every peak and trough kept."""
    if len(run) <= most:
        return list(run)
    buckets = most // 2
    kept = [run[0]]
    for number_ in range(buckets):
        start, stop = number_ * len(run) // buckets, (number_ + 1) * len(run) // buckets
        bucket = run[start:stop]
        ends = {min(bucket, key=lambda pair: pair[1]), max(bucket, key=lambda pair: pair[1])}
        kept += sorted(ends - {kept[-1]})
    return kept if kept[-1] == run[-1] else [*kept, run[-1]]


def _text(x: float, y: float, anchor: str, text: str, kind: str = "label") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _at(x), _at(y), anchor, text
    )


def _span(bottom: float, top: float) -> str:
    return f"{number(bottom)} to {number(top)}" if top > bottom else f"always {number(top)}"


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
