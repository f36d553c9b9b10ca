"""Each message of the page is one that the code can say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
GAP = "…"
SHORTEST = 4  # characters that a piece must have to count: less is found anywhere


def quoted() -> list[str]:
    """The messages: first cells of the tables, in backticks, which may hold backticks."""
    cells = re.findall(r"^\| `(.+?)` \| ", PAGE.read_text(), flags=re.MULTILINE)
    return [cell for cell in cells if cell != "message"]


def texts(tree: ast.AST) -> Iterator[str]:
    """Texts of a module's literals, with a gap where a value comes in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values
            )


@pytest.fixture(scope="module")
def modules() -> list[str]:
    files = [path for folder in ("dstc", "dstc_engine") for path in (ROOT / folder).rglob("*.py")]
    return ["\n".join(texts(ast.parse(path.read_text()))) for path in files]


def is_said(message: str, modules: list[str]) -> bool:
    pieces = [piece.strip(" .,:()'") for piece in message.split(GAP)]
    pieces = [piece for piece in pieces if len(piece) >= SHORTEST]
    return bool(pieces) and any(all(piece in module for piece in pieces) for module in modules)


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_said_by_one_module(message: str, modules: list[str]) -> None:
    assert is_said(message, modules)


def test_a_message_that_nobody_says_is_found_out(modules: list[str]) -> None:
    assert len(quoted()) > 40
    assert not is_said("…: there is no such manifests", modules)
    assert not is_said("unknown preset …; the folder holds no run", modules)
