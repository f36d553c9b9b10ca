"""What holds of every hostile case, whichever file it is in."""

from __future__ import annotations

import re
from collections import Counter
from types import ModuleType

import pytest

from tests.hostile.all_cases import all_cases, cases_of
from tests.hostile.case import Case

A, B = Case("Kind", "a", "what a is", "done"), Case("Kind", "b", "what b is", "kept")


def test_each_name_is_unique() -> None:
    names = Counter((case.kind, case.name) for case in all_cases())
    assert not [name for name, times in names.items() if times > 1]


def test_each_case_says_what_it_is_and_how_it_ends() -> None:
    end = r"done|kept|(rejected|failed): [a-z0-9_ ]+|refused: exit 2"
    wrong = [c for c in all_cases() if not (c.kind and c.what and re.fullmatch(end, c.outcome))]
    assert not wrong


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        ({}, []),
        ({"CASES": []}, []),
        ({"CASES": [A, B]}, [A, B]),
        ({"CASES": [(A, print), (B, print)]}, [A, B]),
        ({"CASES": [A], "DEADLY_CASES": [B]}, [A, B]),
        ({"FEW_CASES": (A,), "CASES": [A, B]}, [A, B]),
        ({"KIND": "Kind", "OTHERS": [A]}, []),
        ({"CASES": [A, Case(A.kind, A.name, A.what, A.outcome)]}, [A, A]),
    ],
)
def test_cases_are_found_in_every_form(lists: dict[str, object], found: list[Case]) -> None:
    module = ModuleType("some")
    vars(module).update(lists)
    assert cases_of(module) == found
