"""Who may import whom, read from the code's own imports; docs/architecture.md says why.

Every import counts: at the top of a file, inside a function, and for types alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dstc", "dstc_engine", "tiny64", "jobs", "benchmarks")
# Rooms of dstc that commands use; none of them knows a command.
ROOMS = (
    *("store", "planning", "engines", "worker", "driver", "evaluation", "distillation"),
    *("reporting", "exporting", "manifests"),
)
MOST_LINES = 450


def _module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def _modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {_module_of(path): path for path in paths}


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports name their package in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _known(name: str) -> str:
    """The module of ours that an imported name belongs to; the name itself for other packages."""
    while name not in _modules() and name.partition(".")[0] in PACKAGES:
        name = name.rpartition(".")[0]
    return name


@cache
def _imports() -> dict[str, set[str]]:
    return {
        module: {_known(name) for name in _named(ast.parse(path.read_text()))} - {module}
        for module, path in _modules().items()
    }


def _is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _offences(place: str, *forbidden: str) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in sorted(_imports().items())
        for name in sorted(names)
        if _is_in(module, place) and _is_in(name, *forbidden)
    ]


def _circles() -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan 1972)."""
    graph = {module: names & _imports().keys() for module, names in _imports().items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for name in graph[module]:
            if name not in index:
                visit(name)
                low[module] = min(low[module], low[name])
            elif name in stack:
                low[module] = min(low[module], index[name])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in index:
            visit(module)
    return found


def test_the_engine_knows_no_ray_and_no_storage() -> None:
    assert not _offences("dstc_engine", "ray", "dstc", "tiny64", "jobs", "fsspec", "s3fs")


def test_store_knows_no_ray_and_no_other_room() -> None:
    rooms = [f"dstc.{room}" for room in ROOMS if room != "store"]
    assert not _offences("dstc.store", "ray", *rooms)


def test_rooms_know_no_commands() -> None:
    commands = [
        module
        for module in _modules()
        if module.count(".") == 1 and _is_in(module, "dstc") and not _is_in(module, *_foundations())
    ]
    assert "dstc.translate" in commands
    rooms = [f"dstc.{room}" for room in ROOMS]
    assert not [offence for room in rooms for offence in _offences(room, *commands)]


def _foundations() -> tuple[str, ...]:
    """What all rooms stand on, and the rooms themselves."""
    return (
        *(f"dstc.{room}" for room in ROOMS),
        *("dstc.errors", "dstc.text", "dstc.log_lines", "dstc.options", "dstc.ray_session"),
    )


def test_tiny64_is_known_to_the_commands_alone() -> None:
    users = {module for module, names in _imports().items() if _is_in_any(names, "tiny64")}
    assert {user for user in users if not _is_in(user, "tiny64")} <= {"dstc.emoji", "dstc.train"}


def _is_in_any(names: set[str], package: str) -> bool:
    return any(_is_in(name, package) for name in names)


def test_nobody_needs_benchmarks_or_what_is_submitted() -> None:
    assert not _offences("dstc", "benchmarks", "jobs", "tests")
    assert not _offences("dstc_engine", "benchmarks", "jobs", "tests")
    in_the_wheel = [
        offence
        for offence in _offences("tiny64", "jobs", "tests", "benchmarks")
        if not offence.startswith(("tiny64.quality", "tiny64.release"))
    ]
    assert not in_the_wheel


def test_there_are_no_circles() -> None:
    assert not _circles()


@pytest.mark.parametrize("package", ["dstc", "dstc_engine"])
def test_files_stay_readable_in_one_go(package: str) -> None:
    lines = {
        module: len(path.read_text().splitlines())
        for module, path in _modules().items()
        if _is_in(module, package)
    }
    assert not {module: count for module, count in lines.items() if count > MOST_LINES}
