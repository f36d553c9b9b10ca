"""docs/licenses.md names every package of the lock, with the license that it says it has."""

from __future__ import annotations

import importlib.metadata
import runpy
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
MADE = runpy.run_path(str(DOCS / "make_licenses.py"))


def test_every_package_of_the_lock_has_its_line() -> None:
    assert set(MADE["listed"]()) == set(MADE["locked"]()), "run python docs/make_licenses.py"


def test_licenses_are_those_of_the_packages_here() -> None:
    here = {
        each.metadata["Name"].lower().replace("_", "-")
        for each in importlib.metadata.distributions()
    }
    listed = {name: said for name, said in MADE["listed"]().items() if name in here}
    assert len(listed) > 50
    assert {name: MADE["license_of"](name) for name in listed} == listed


def test_none_asks_for_the_source_of_the_whole() -> None:
    assert not [name for name, said in MADE["listed"]().items() if "GPL" in said or "SSPL" in said]
