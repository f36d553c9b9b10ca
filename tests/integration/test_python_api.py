"""The functions of `import dstc` that need Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dstc
from tests.ray_session import RAY_WARNINGS

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]

Rows = Callable[[int], dict[str, list[Any]]]


def test_a_run_prints_nothing_and_tells_how_far_it_is(
    tmp_path: Path,
    good_rows: Rows,
    write_manifest: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    columns = good_rows(6)
    columns["content"][1] = "none.png"
    told: list[dstc.Progress] = []
    run = dstc.translate(
        write_manifest(columns), tmp_path / "run", on_progress=told.append, engine="fake", slots=3
    )
    assert (run.status.done, run.status.rejected) == (5, 1)
    assert told[-1].rows == told[-1].rows_ended == 6
    assert run.table(["id"]).column("id").to_pylist() == columns["id"]
    assert capfd.readouterr() == ("", "")
