from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dstc.errors import RunFolderError
from dstc.planning.kept_parts import find_kept_parts
from dstc.planning.run_identity import Job, existing_job, open_or_create, plan_job
from dstc.planning.settings import make_settings
from dstc.store.manifest import open_manifest
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc_engine.presets import TINY64

Write = Callable[..., Path]


@dataclass(frozen=True)
class Weights:
    name: str
    sha256: str
    settings: dict[str, Any]


@pytest.fixture
def plan(tmp_path: Path, write_manifest: Write) -> Callable[..., Job]:
    def make(rows: int = 10, weights: str = "aa", described: Any = None, **values: Any) -> Job:
        ids = [str(number) for number in range(rows)]
        path = write_manifest({"id": ids, "content": ids, "prompt": ids})
        settings = make_settings(
            manifest=str(path), output=str(tmp_path / "run"), rows_per_shard=4, **values
        )
        manifest = open_manifest(settings.manifest, 4, limit=settings.limit)
        return plan_job(settings, manifest, [Weights("prior", weights, described or {})])

    return make


def test_paths() -> None:
    run = RunFolder("s3://bucket/run")
    assert run.part(7) == "s3://bucket/run/results/part-00007.parquet"
    assert run.part(123456) == "s3://bucket/run/results/part-123456.parquet"
    assert run.image("cats/1") == f"s3://bucket/run/{run.image_name('cats/1')}"
    assert run.image_name("cats/1") == "images/5f/cats/1.png"
    assert run.sample_name("cats/1", 0) == run.image_name("cats/1")
    assert run.sample_name("cats/1", 12) == "samples/12/5f/cats/1.png"
    assert run.retry_name("cats/1", 2) == "retries/2/5f/cats/1.png"
    assert run.stats(7) == "s3://bucket/run/stats/00007.json"


def test_the_same_arguments_continue_the_run(plan: Callable[..., Job]) -> None:
    first = open_or_create(plan())
    again = open_or_create(plan())
    assert (again.run_id, again.fingerprint) == (first.run_id, first.fingerprint)


def test_a_run_from_before_there_was_a_field_goes_on(plan: Callable[..., Job]) -> None:
    job = plan(set={"step_variance": "learned"})
    assert "step_variance" in job.record["preset"], "what was done is told whole"
    assert "step_variance" not in job.identity["preset"]
    assert plan().image_fingerprint != job.image_fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed: there 0, here 4"),
        ({"set": {"skip": "1"}}, f"preset.skip: there {TINY64.skip}, here 1"),
        ({"set": {"gate_range": "0.5"}}, f"preset.gate_range: there {TINY64.gate_range}, here 0.5"),
        (
            {"set": {"step_variance": "learned"}},
            'preset.step_variance: there "posterior", here nothing',
        ),
        ({"samples_per_row": 3}, "samples_per_row: there 1, here 3"),
        ({"slots": 2}, "engine.slots: there 8, here 2"),
        ({"precision": "bf16"}, 'engine.precision: there "fp32", here "bf16"'),
        ({"precision": "tf32"}, 'engine.precision: there "fp32", here "tf32"'),
        ({"deterministic": True}, "engine.deterministic: there nothing, here true"),
        ({"engine": "fake"}, 'engine.kind: there "guided", here "fake"'),
        ({"weights": "bb"}, 'weights.prior: there "aa", here "bb"'),
        (
            {"described": {"schedule": {"kind": "cosine"}}},
            "described: there nothing, here",
        ),
        ({"rows": 11}, "manifest.manifest.parquet.rows: there 10, here 11"),
    ],
)
def test_another_run_is_refused_naming_what_differs(
    plan: Callable[..., Job], change: dict[str, Any], message: str
) -> None:
    open_or_create(plan())
    with pytest.raises(RunFolderError, match="belongs to another run") as refusal:
        open_or_create(plan(**change))
    assert message in str(refusal.value)


def test_actors_limit_and_address_do_not_make_another_run(plan: Callable[..., Job]) -> None:
    open_or_create(plan())
    for retry in ("failed", "flagged"):
        other = plan(actors=3, limit=2, retry=retry, address="ray://elsewhere:10001")
        assert open_or_create(other).limits == (2,)


def test_the_image_fingerprint_leaves_out_the_manifest(plan: Callable[..., Job]) -> None:
    assert plan().image_fingerprint == plan(rows=3, seed=5).image_fingerprint
    assert plan().image_fingerprint != plan(slots=2).image_fingerprint


def test_gates_change_no_image(plan: Callable[..., Job]) -> None:
    gated = plan(set={"gate_range": "0.5"})
    assert gated.image_fingerprint == plan().image_fingerprint
    assert gated.fingerprint != plan().fingerprint, "and what flags a row of a folder is one thing"


def test_a_folder_that_is_no_run_is_refused(plan: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert existing_job(plan()) is None
    (tmp_path / "run" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"found holiday\.jpg, and no job\.json"):
        open_or_create(plan())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": 1}'])
def test_a_foreign_job_json_is_refused(plan: Callable[..., Job], tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "job.json").write_text(text)
    with pytest.raises(RunFolderError, match="not a job.json of this program"):
        open_or_create(plan())


def test_job_json_holds_no_environment(
    plan: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-value")
    open_or_create(plan(address="ray://user-token@host:1"))
    text = (tmp_path / "run" / "job.json").read_text()
    assert "s3cr3t-value" not in text and "user-token" not in text
    record = json.loads(text)
    assert record["preset"]["name"] == "tiny64" and record["weights"][0]["sha256"] == "aa"
    assert record["manifest"]["rows"] == 10 and record["versions"]["ray"]


def finish(run: RunFolder, shard: int, statuses: list[str]) -> None:
    rows = pa.table({"id": [f"{shard}-{row}" for row in range(len(statuses))]})
    write_part(run, shard, result_table(rows, [Outcome(status) for status in statuses]))


def test_done_are_shards_whose_part_holds_all_rows(
    plan: Callable[..., Job], write_manifest: Write, tmp_path: Path
) -> None:
    limited = open_or_create(plan(limit=6))
    finish(limited.run, 0, ["done"] * 4)
    finish(limited.run, 1, ["done", "failed"])
    manifest = open_manifest(str(tmp_path / "manifest.parquet"), 4, limit=6)
    assert find_kept_parts(limited.run, manifest).done == {0, 1}
    # Without the limit, the second shard has four rows, and its part only two.
    whole = open_or_create(plan())
    manifest = open_manifest(str(tmp_path / "manifest.parquet"), 4)
    assert find_kept_parts(whole.run, manifest).done == {0}
    assert whole.cut_shards(manifest) == {1}


def test_every_limit_is_remembered_since_each_may_have_cut_a_shard(
    plan: Callable[..., Job], write_manifest: Write, tmp_path: Path
) -> None:
    first = open_or_create(plan(limit=2))
    finish(first.run, 0, ["done", "done"])
    # The job goes on from what it found, as `dstc.planning.plan.what_is_left` does.
    found = existing_job(plan(limit=6))
    assert found is not None
    second = open_or_create(found)
    finish(second.run, 0, ["done"] * 4)
    finish(second.run, 1, ["done"] * 2)
    whole = open_or_create(plan())
    assert whole.limits == (2, 6)
    manifest = open_manifest(str(tmp_path / "manifest.parquet"), 4)
    assert find_kept_parts(whole.run, manifest).done == {0} and whole.cut_shards(manifest) == {0, 1}
