"""The tables of docs/presets.md, reliability.md and performance.md are those of the code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from dstc_engine.losses import LOSSES
from dstc_engine.presets import FIELDS, PRESETS
from tests.hostile import all_cases
from tests.hostile.case import Case

DOCS = Path(__file__).parents[3] / "docs"
MADE = runpy.run_path(str(DOCS / "make_tables.py"))
PAGE = (DOCS / "presets.md").read_text()


@pytest.mark.parametrize("name", ["presets.md", "reliability.md", "performance.md"])
def test_the_page_is_what_the_code_makes(name: str) -> None:
    page = (DOCS / name).read_text()
    assert page == MADE["renewed"](page, name), "run python docs/make_tables.py"


def test_a_table_that_lags_behind_is_renewed() -> None:
    (row,) = re.findall(r"^\| `skip` \|.*\n", PAGE, re.MULTILINE)
    assert "| `40` | 0 or more |" in row and FIELDS["skip"].meaning in row
    for lagging in (PAGE.replace(row, ""), PAGE.replace(row, row.replace("40", "41"))):
        assert lagging != PAGE == MADE["renewed"](lagging)


def test_a_hostile_case_that_the_page_lacks_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "reliability.md").read_text()
    case = Case("URIs", "odd_pipe", "a name with | in it", "rejected: bad_uri")
    monkeypatch.setattr(all_cases, "all_cases", lambda: [case])
    row = "| URIs | `odd_pipe` | a name with \\| in it | rejected: bad_uri |"
    assert row not in page and row in MADE["renewed"](page, "reliability.md")


def test_each_field_preset_and_loss_has_its_row() -> None:
    named = set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE))
    assert named >= {*FIELDS, *PRESETS, *LOSSES}


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the marks <!-- made by .*: fields -->"):
        MADE["renewed"]("# Presets\n")
