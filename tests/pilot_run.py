"""Run folders as `dstc translate` leaves them, written without Ray."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dstc.planning.plan import make_plan
from dstc.planning.run_identity import open_or_create
from dstc.planning.settings import make_settings
from dstc.store.results import Outcome, result_table, write_part
from dstc_engine.image import encode_png
from dstc_engine.request import ImageArray

Ending = ImageArray | Outcome


def write_run(
    folder: Path,
    manifest: Path,
    end: Callable[[dict[str, Any]], Ending],
    state: str = "finished",
    **settings: Any,
) -> Path:
    """Ends all rows of a manifest by `end`: an image where it is done, else an outcome."""
    plan = make_plan(make_settings(manifest=str(manifest), output=str(folder), **settings))
    run = open_or_create(plan.job).run
    rows = pq.read_table(manifest)
    per_shard = plan.settings.rows_per_shard
    for shard in range(plan.manifest.shards):
        of_shard = rows.slice(shard * per_shard, per_shard)
        outcomes = [_outcome(folder, row, end(row)) for row in of_shard.to_pylist()]
        write_part(run, shard, result_table(of_shard, outcomes))
    (folder / "progress.json").write_text(json.dumps({"state": state, "updated": time.time()}))
    return folder


def _outcome(folder: Path, row: dict[str, Any], ending: Ending) -> Outcome:
    if isinstance(ending, Outcome) and ending.status != "done":
        return ending
    name = f"images/{row['id']}.png"
    if isinstance(ending, Outcome):
        return ending
    data = encode_png(ending)
    (folder / "images").mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return Outcome("done", image=name, image_sha256=digest, seed=1, steps=1, slots=1)
