"""Tells what the tests took, at the end of the run."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = terminalreporter.stats.get("passed", [])
    lines = [
        f"{report.nodeid.rsplit('::', 1)[-1]}: {name} {value}"
        for report in reports
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("what it took")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert "slow" in item.keywords or "tests/slow" not in item.path.as_posix(), item.nodeid
