"""The cases of all files here, for the table in docs/reliability.md.

A file keeps its cases in lists of the module, whose names end in CASES: of `Case` itself, or of
tuples that hold one beside what tries it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tests.hostile.case import Case

FOLDER = Path(__file__).parent


def all_cases() -> list[Case]:
    """By kind, in the order in which their file has them; each once."""
    modules = (f"tests.hostile.{path.stem}" for path in sorted(FOLDER.glob("test_*.py")))
    found = [case for name in modules for case in cases_of(importlib.import_module(name))]
    return sorted(found, key=lambda case: case.kind)


def cases_of(module: ModuleType) -> list[Case]:
    """Of one file, without those that stand in a second list of it."""
    lists = (value for name, value in vars(module).items() if name.endswith("CASES"))
    # By object: a case written twice is a mistake that a test must still see.
    return list({id(case): case for value in lists for case in _cases_in(value)}.values())


def _cases_in(value: object) -> Iterator[Case]:
    if isinstance(value, Case):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _cases_in(each)
