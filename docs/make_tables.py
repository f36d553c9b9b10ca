"""Writes the tables of the docs that follow from the code, each between its two marks.

python docs/make_tables.py
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dstc_engine.losses import LOSSES
from dstc_engine.preset_fields import as_text
from dstc_engine.presets import FIELDS, PRESETS, Preset
from dstc_engine.step_memory import key_of, step_memory

DOCS = Path(__file__).resolve().parent

Tables = dict[str, str]
"""The tables of a page by the names that their marks have."""


def presets() -> Tables:
    """Fields, presets and losses."""
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


def reliability() -> Tables:
    """The hostile cases that tests try."""
    # Tests are no installed package, and a script's own folder is all that Python looks in.
    sys.path.insert(0, str(DOCS.parent))
    try:
        from tests.hostile.all_cases import all_cases
    finally:
        sys.path.pop(0)

    cases = all_cases()
    rows = (
        (case.kind, f"`{case.name}`", case.what.replace("|", "\\|"), case.outcome) for case in cases
    )
    table = _table(("kind", "case", "what is tried", "how it ends"), rows)
    return {"hostile": f"{len(cases)} cases.\n\n{table}"}


def performance() -> Tables:
    """Memory of a step on a GPU."""
    cards = (24, 48, 80, 141)
    rows = []
    for name, preset in PRESETS.items():
        for checkpointing in (False, "large", True):
            for precision in ("fp32", "bf16"):
                known = step_memory(preset, precision, checkpointing)
                if known is None:
                    continue
                sizes = (known.weights, known.fixed - known.weights, known.each, known.in_group)
                rows.append(
                    (
                        f"`{name}`",
                        key_of(precision, checkpointing),
                        *(f"{size / 2**30:.2f}" for size in sizes),
                        *(str(known.slots_on(card << 30)) for card in cards),
                    )
                )
    head = ("preset", "precision", "weights", "fixed", "a slot", "a row of a group")
    return {"memory": _table((*head, *(f"on {card} GiB" for card in cards)), rows)}


PAGES: dict[str, Callable[[], Tables]] = {
    "presets.md": presets,
    "reliability.md": reliability,
    "performance.md": performance,
}


def renewed(page: str, name_of_page: str = "presets.md") -> str:
    """The text of a page with its tables as the code has them now."""
    for name, table in PAGES[name_of_page]().items():
        begin, end = f"<!-- made by docs/make_tables.py: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{DOCS / name_of_page}: expected the marks {begin} and {end}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for each in PAGES:
        path = DOCS / each
        path.write_text(renewed(path.read_text(), each))
