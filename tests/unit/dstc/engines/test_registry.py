"""Engines are found by name; what is none is refused, and says what was expected."""

from __future__ import annotations

import pytest

from dstc.engines.registry import ENGINES, find_engine
from dstc.errors import SettingsError
from tests.example_engine import BRIGHTEN


def test_each_name_has_a_record_of_that_name() -> None:
    assert {name: find_engine(name).name for name in ENGINES} == {name: name for name in ENGINES}


def test_an_engine_of_ones_own_is_found_by_its_place() -> None:
    assert find_engine("tests.example_engine:BRIGHTEN") is BRIGHTEN


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "other",
            "no such engine; expected one of guided, student, fake, or package.module:RECORD",
        ),
        ("tests.no_such_module:X", "No module named 'tests.no_such_module'"),
        ("tests.example_engine:NOTHING", "has no attribute 'NOTHING'"),
        ("tests.example_engine:Brightener", "found type; expected an EngineSpec"),
    ],
)
def test_what_is_no_engine_is_refused(name: str, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        find_engine(name)
    assert str(refused.value).startswith(f"--engine {name}: ") and message in str(refused.value)
