"""docs/architecture.md names lines, files and folders that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("dstc", "dstc_engine", "tiny64", "jobs", "benchmarks", "deploy", "tests")


def quoted_lines() -> list[tuple[str, str]]:
    section = PAGE.split("### Which process runs this line?")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w/.]+)` \| `(.+?)` \| ", section, re.MULTILINE)


def test_ten_lines_are_told_apart() -> None:
    assert len(quoted_lines()) == 10


@pytest.mark.parametrize(("file", "line"), quoted_lines())
def test_each_quoted_line_stands_in_its_file_once(file: str, line: str) -> None:
    lines = [text.strip() for text in (ROOT / file).read_text().splitlines()]
    assert lines.count(line) == 1


def test_every_folder_with_code_has_its_line() -> None:
    listed = set(re.findall(r"^\| `([\w/]+)/` \| ", PAGE, re.MULTILINE))
    folders = {
        str(path.parent.relative_to(ROOT))
        for package in PACKAGES[:3]
        for path in (ROOT / package).rglob("*.py")
    }
    assert {folder for folder in folders if not folder.startswith("tiny64/")} <= listed
    assert all((ROOT / folder).is_dir() for folder in listed)


def test_every_path_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    rooms = ("", "dstc/", "dstc_engine/", "dstc/worker/", "dstc/planning/", "dstc/engines/")
    missing = {
        name for name in named if not any((ROOT / f"{room}{name}").is_file() for room in rooms)
    }
    assert not missing
