"""The line above each table names what is installed."""

from __future__ import annotations

import importlib.metadata

import pytest

from benchmarks.table import machine, print_table


def test_the_machine_is_named_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    assert f"ray {real('ray')}, torch {real('torch')}" in machine()
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert machine().endswith(f", torch {real('torch')}")
    assert ", ray " not in machine()


def test_columns_are_right_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["way", "images/s"], [["engine", 1.5], ["official pattern", 0.25]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "|              way | images/s |",
        "| ---------------: | -------: |",
        "|           engine |      1.5 |",
        "| official pattern |     0.25 |",
    ]
