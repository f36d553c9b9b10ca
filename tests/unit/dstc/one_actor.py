"""Shards through an actor without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pyarrow as pa
import ray

from dstc.planning.settings import make_settings
from dstc.store.manifest import open_manifest
from dstc.store.packed_rows import unpack_rows
from dstc.store.run_folder import RunFolder
from dstc.worker.read_shards import SHARD_SCHEMA, ManifestShards
from dstc.worker.row_count import RowCount
from dstc.worker.shard_task import ShardTask
from dstc.worker.translate_shard import TranslateShard

Write = Callable[..., Path]


def _no_answer() -> NoReturn:
    raise ray.exceptions.RayError("no Ray here")


class LocalRowCount(RowCount):
    """A `RowCount` in this process, called as a Ray actor is."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "shards_ahead":  # asked with `ray.get`, which needs Ray
            return SimpleNamespace(remote=_no_answer)
        return SimpleNamespace(remote=found) if name in ("tell", "beat", "start", "end") else found


Columns = Callable[[int], dict[str, list[Any]]]


class Job:
    """One actor without Ray, and the shards of a manifest."""

    def __init__(
        self, manifest: Path, output: Path, rows: int, make_engine: Any = None, **more: Any
    ) -> None:
        settings = make_settings(
            manifest=str(manifest),
            output=str(output),
            rows_per_shard=rows,
            slots=3,
            engine="fake",
            **more,
        )
        self.run = RunFolder(str(output))
        self.task = ShardTask(settings, self.run, "run-1", "ffff")
        self.row_count = LocalRowCount()
        self.actor = TranslateShard(self.task, self.row_count, make_engine)
        plan = open_manifest(str(manifest), rows)
        source = ManifestShards(plan, range(plan.shards), plan.duplicates())
        self.shards = [block for task in source.get_read_tasks(1) for block in task()]

    def translate(self, shard: int = 0) -> pa.Table:
        assert self.shards[shard].schema == SHARD_SCHEMA
        (record,) = self.actor(self.shards[shard]).to_pylist()
        assert record["shard"] == shard
        return unpack_rows(record["rows"])

    def stats(self, shard: int = 0) -> dict[str, Any]:
        return dict(json.loads(Path(self.run.stats(shard)).read_text()))


MakeJob = Callable[..., Job]
