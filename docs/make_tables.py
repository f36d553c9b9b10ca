"""Writes the tables of docs/presets.md that follow from the code, each between its two marks.

python docs/make_tables.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from dstc_engine.losses import LOSSES
from dstc_engine.preset_fields import as_text
from dstc_engine.presets import FIELDS, PRESETS, Preset

PAGE = Path(__file__).with_name("presets.md")


def tables() -> dict[str, str]:
    """The tables by the names that their marks have."""
    default = {field.name: as_text(field.default) for field in dataclasses.fields(Preset)}

    def changes(preset: Preset) -> str:
        values = {field: as_text(getattr(preset, field)) for field in FIELDS}
        changed = (f"`{f}={value}`" for f, value in values.items() if value != default[f])
        return ", ".join(changed)

    return {
        "fields": _table(
            ("field", "default", "takes", "meaning"),
            (
                (f"`{field}`", f"`{default[field]}`", about.expected, about.meaning)
                for field, about in FIELDS.items()
            ),
        ),
        "changes": _table(
            ("preset", "differs from the defaults by"),
            ((f"`{name}`", changes(preset)) for name, preset in PRESETS.items()),
        ),
        "losses": _table(
            ("loss", "network", "image it sees", "row needs", "weight"),
            (
                (f"`{loss.name}`", loss.network or "", loss.view, loss.needs or "", loss.meaning)
                for loss in LOSSES.values()
            ),
        ),
    }


def renewed(page: str) -> str:
    """The text of the page with its tables as the code has them now."""
    for name, table in tables().items():
        begin, end = f"<!-- made by docs/make_tables.py: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE}: expected the marks {begin} and {end}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
