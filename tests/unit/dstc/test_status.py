from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dstc.cli import app
from dstc.errors import RunFolderError
from dstc.status import read_status
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder


def start_run(folder: Path, **progress: Any) -> RunFolder:
    """A run of 10 rows in 5 shards, of which three are finished."""
    run = RunFolder(str(folder))
    job = {"run_id": "20260101-000000-abcdef", "manifest": {"rows": 10}}
    (folder / "job.json").write_text(json.dumps(job))
    if progress:
        record = {
            "state": "running",
            "updated": 1000.0,
            "driver": {"host": "head", "pid": 7},
            "rows": 10,
            "rows_ended": 9,
            "shards": 5,
            "shards_done": 2,
            "done": 4,
            "rejected": 0,
            "failed": 0,
            "rejected_reasons": {},
            "failed_reasons": {},
            "rate": 0.5,
            "seconds_left": 2.0,
            "actors_wanted": 4,
            "actors_running": 3,
            "actors_seen": 5,
            "occupancy": 0.875,
        }
        (folder / "progress.json").write_text(json.dumps({**record, **progress}))
    outcomes = [
        [Outcome("done"), Outcome("failed", "fetch_error")],
        [Outcome("done"), Outcome("done", flagged="clip, range")],
        [Outcome("rejected", "bad_id"), Outcome("failed", "fetch_error")],
    ]
    for shard, ended in enumerate(outcomes):
        rows = pa.table({"id": [f"{shard}-{row}" for row in range(2)]})
        write_part(run, shard, result_table(rows, ended))
    return run


def test_while_it_runs_its_driver_is_believed(tmp_path: Path) -> None:
    start_run(tmp_path, state="running")
    status = read_status(str(tmp_path), now=1010.0)
    assert (status.state, status.seconds_since) == ("running", 10.0)
    assert (status.rows_ended, status.done, status.shards_done) == (9, 4, 2)
    assert (status.rate, status.actors_running, status.actors_wanted) == (0.5, 3, 4)
    assert status.driver == "host head, process 7"
    assert status.flagged == 0, "its version may know of no gates"


def test_what_may_run_again_is_said_when_it_is_finished(tmp_path: Path) -> None:
    start_run(tmp_path, state="finished")
    shown = CliRunner().invoke(app, ["status", str(tmp_path)]).stdout
    assert "1 (clip, range 1)" in shown
    assert "--retry failed" in shown and "--retry flagged" in shown


@pytest.mark.parametrize(
    ("recorded", "state"), [("running", "silent"), ("stopped", "stopped"), ("broken", "broken")]
)
def test_when_it_does_not_run_the_parts_are_counted(
    tmp_path: Path, recorded: str, state: str
) -> None:
    start_run(tmp_path, state=recorded)
    status = read_status(str(tmp_path), now=2000.0)
    assert status.state == state
    assert (status.rows_ended, status.done, status.rejected, status.failed) == (6, 3, 1, 2)
    assert status.failed_reasons == {"fetch_error": 2}
    assert status.rejected_reasons == {"bad_id": 1}
    assert (status.flagged, status.flagged_reasons) == (1, {"clip, range": 1})
    assert (status.shards_done, status.shards, status.rate) == (3, 5, None)


def test_a_run_whose_driver_never_spoke_is_counted_too(tmp_path: Path) -> None:
    start_run(tmp_path)
    status = read_status(str(tmp_path))
    assert (status.state, status.rows, status.rows_ended) == ("new", 10, 6)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"output {tmp_path}: no job.json found"):
        read_status(str(tmp_path))


def test_the_command_speaks_to_people_and_to_programs(tmp_path: Path) -> None:
    start_run(tmp_path, updated=time.time())
    shown = CliRunner().invoke(app, ["status", str(tmp_path)]).stdout
    assert "9 of 10 (90.0%)" in shown and "3 running, 4 wanted, 5 seen" in shown
    assert "0.50 row/s; 2 s left" in shown and "88%" in shown
    status = json.loads(CliRunner().invoke(app, ["status", str(tmp_path), "--json"]).stdout)
    assert (status["state"], status["done"]) == ("running", 4)
