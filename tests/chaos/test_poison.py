from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dstc_engine.guidance.guide  # noqa: F401  (imported once, before the copies, each of which needs it)
from dstc.planning.settings import make_settings
from dstc.store.duplicates import find_duplicates
from dstc.store.manifest import open_manifest
from dstc.store.packed_rows import unpack_rows
from dstc.store.results import write_part
from dstc.store.run_folder import RunFolder
from dstc.worker.read_shards import ManifestShards
from dstc.worker.shard_task import ShardTask
from dstc.worker.translate_shard import TranslateShard
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import TranslationRequest

# Copies of a process that runs a Ray would have its locks, and none of its threads.
pytestmark = pytest.mark.usefixtures("no_ray")

POISON = "row/002"
SLOTS = 3


class DeadlyEngine(FakeEngine):
    """Dies as a segmentation fault or the kernel's memory guard would end it: without a word."""

    def add(self, request: TranslationRequest) -> None:
        super().add(request)
        if request.id == POISON:
            os.kill(os.getpid(), signal.SIGKILL)


def translate(task: ShardTask, shard: pa.Table) -> None:
    actor = TranslateShard(task, make_engine=lambda slots: DeadlyEngine(TINY64, slots))
    (record,) = actor(shard).to_pylist()
    write_part(task.run, record["shard"], unpack_rows(record["rows"]))
    os._exit(0)  # without the exit handlers that this copy shares with its parent


def test_a_row_that_kills_every_process_fails_and_its_neighbors_are_done(
    write_manifest: Callable[..., Path],
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
) -> None:
    manifest = open_manifest(str(write_manifest(good_rows(6))), 6)
    none = find_duplicates(lambda: [pa.array(["x"])], 1)
    (read,) = ManifestShards(manifest, [0], none).get_read_tasks(1)
    (shard,) = read()
    settings = make_settings(
        manifest=manifest.uri, output=str(tmp_path / "run"), slots=SLOTS, engine="fake"
    )
    run = RunFolder(settings.output)
    # A copy of this process, as Ray would start a fresh actor, again and again.
    context = multiprocessing.get_context("fork")
    codes = []
    while not run.parts():
        task = ShardTask(settings, run, "run-1", "ffff")
        process = context.Process(target=translate, args=(task, shard))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
        assert len(codes) < 10, f"the shard never ends: {codes}"
    # Twice together with others, twice alone; then it is blamed.
    assert codes == [-signal.SIGKILL] * 4 + [0]
    rows = {row["id"]: row for row in pq.read_table(run.part(0)).to_pylist()}
    assert list(rows) == good_rows(6)["id"]
    poisoned = rows.pop(POISON)
    assert (poisoned["status"], poisoned["reason"]) == ("failed", "worker_died")
    assert {row["status"] for row in rows.values()} == {"done"}
