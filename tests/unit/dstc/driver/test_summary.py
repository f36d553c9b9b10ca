"""The end of a run whose driver was killed just before it."""

from __future__ import annotations

from pathlib import Path

from dstc.driver.summary import summarize_run
from dstc.planning.plan import make_plan
from dstc.planning.settings import make_settings
from dstc.status import read_status
from tests.pilot import write_pilot


def test_a_run_that_lacks_nothing_is_finished_whatever_its_driver_said_last(tmp_path: Path) -> None:
    output = write_pilot(tmp_path, state="running")
    assert read_status(str(output)).state == "running"
    manifest = tmp_path / "data" / "rows.parquet"
    settings = make_settings(
        manifest=str(manifest), output=str(output), engine="fake", rows_per_shard=10
    )
    plan = make_plan(settings)
    assert not plan.pending
    assert summarize_run(plan, 1.0).done == 24
    assert read_status(str(output)).state == "finished"
