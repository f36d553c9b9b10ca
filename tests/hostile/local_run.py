"""A whole run without Ray: plan, one actor with the fake engine, parts and summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.driver.summary import Summary, summarize_run
from dstc.planning.plan import Plan, make_plan, what_is_left
from dstc.planning.run_identity import open_or_create
from dstc.planning.settings import make_settings
from dstc.store.run_folder import RunFolder
from dstc.worker.read_shards import ManifestShards
from dstc.worker.shard_task import ShardTask
from dstc.worker.translate_shard import TranslateShard
from dstc.worker.write_results import ResultParts
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64


class Noting(FakeEngine):
    """Notes the ids of the rows that it translates."""

    def __init__(self, slots: int, seen: list[str]) -> None:
        super().__init__(TINY64, slots)
        self._seen = seen

    def add(self, request: Any) -> None:
        self._seen.append(request.id)
        super().add(request)


class LocalRun:
    """A manifest and a run folder, and `dstc translate` of the one into the other.

    Attributes:
        seen: ids that were translated since this list was last cleared.
    """

    def __init__(self, manifest: Path, output: Path, rows_per_shard: int = 4) -> None:
        self.manifest, self.output = manifest, output
        self.folder = RunFolder(str(output))
        self.seen: list[str] = []
        self._rows_per_shard = rows_per_shard

    def plan(self, **options: Any) -> Plan:
        """What `dstc translate --dry-run` makes."""
        settings = make_settings(
            manifest=str(self.manifest),
            output=str(self.output),
            rows_per_shard=self._rows_per_shard,
            slots=3,
            engine="fake",
            **options,
        )
        return make_plan(settings)

    def translate(self, **options: Any) -> Summary:
        """What `dstc translate` does."""
        plan = what_is_left(self.plan(**options))
        open_or_create(plan.job)
        plan.ledger.save()
        job, sink = plan.job, ResultParts(plan.job.run)
        task = ShardTask(plan.settings, job.run, job.run_id, job.image_fingerprint)
        actor = TranslateShard(task, None, lambda slots: Noting(slots, self.seen))
        try:
            source = ManifestShards(plan.manifest, plan.pending, plan.duplicates)
            for read in source.get_read_tasks(1):
                for block in read():
                    sink.write([actor(block)], None)
        finally:
            actor.close()
        return summarize_run(plan, 1.0)

    def part(self, shard: int) -> Path:
        """The file of a part."""
        return Path(self.folder.part(shard))

    def rows(self) -> list[dict[str, Any]]:
        """All result rows, without what a clock decides."""
        parts = sorted((self.output / "results").glob("*.parquet"))
        rows = pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()
        return [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in rows]
