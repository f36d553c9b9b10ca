"""What an evaluation is, and which of a run's shards it has still to measure."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc_engine.presets import Preset
from jobs.errors import RunFolderError
from jobs.reporting.record import Record, read_record
from jobs.store import storage
from jobs.store.run_folder import RunFolder

IDENTITY = b"dstc.evaluation"
THREADS = 16


@dataclass(frozen=True)
class Judging:
    """What measures, and how; a part measured by another is measured again.

    Attributes:
        dino, dino_size, dino_layer: the ViT and how it is read; "" measures nothing with one.
        clip: the CLIP model; "" measures nothing with one.
        truth: column of the ground truth; None where there is none.
        image_size, fit: how contents, styles and truths are fitted to a result, as the engine
            does it: Lanczos, then a centre crop or white padding.
    """

    dino: str
    dino_size: int
    dino_layer: int
    clip: str
    truth: str | None
    image_size: int
    fit: str

    @property
    def text(self) -> str:
        """As parts keep it."""
        return json.dumps(asdict(self), sort_keys=True)


def preset_of(job: Record, run: RunFolder) -> Preset:
    """The preset that job.json holds.

    Raises:
        RunFolderError: there is no job.json, or none of this program.
    """
    shown = storage.redact(run.uri)
    if job.problem:
        raise RunFolderError(
            f"output {shown}: job.json {job.problem}; expected a run folder of `dstc translate`"
        )
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in job.part("preset").items()
    }
    try:
        return Preset(**fields)
    except (TypeError, ValueError) as error:
        raise RunFolderError(
            f"output {shown}: the preset in job.json is not one of this version ({error})"
        ) from error


def metrics_part(run: RunFolder, shard: int) -> str:
    """URI of the measures of a shard."""
    return storage.join(run.uri, "metrics", f"part-{shard:05d}.parquet")


def read_metrics(run: RunFolder, shard: int) -> pa.Table | None:
    """The measures of a shard; None where there are none that can be read."""
    try:
        data = pa.BufferReader(storage.read_bytes(metrics_part(run, shard)))
        return pq.read_table(data)
    except (OSError, pa.ArrowException):
        return None


def unmeasured(run: RunFolder, judging: Judging, shards: list[int]) -> list[int]:
    """Shards without measures by this very judging.

    A shard's part of results changes with `--retry failed`; what it had measured says so itself, by
    the sum over the pictures it saw.
    """
    names = set(storage.list_names(storage.join(run.uri, "metrics")))

    def is_measured(shard: int) -> bool:
        table = read_metrics(run, shard) if f"part-{shard:05d}.parquet" in names else None
        if table is None:
            return False
        told = json.loads((table.schema.metadata or {}).get(IDENTITY, b"{}"))
        return told == {
            "judging": json.loads(judging.text),
            "pictures": pictures_sum(run, shard),
        }

    with ThreadPoolExecutor(THREADS) as pool:  # storage answers each in tens of milliseconds
        measured = pool.map(is_measured, shards)
        return [shard for shard, done in zip(shards, measured, strict=True) if not done]


def pictures_sum(run: RunFolder, shard: int) -> str:
    """Over ids and picture sums of a shard's results: changes when any of its rows does."""
    from jobs.store.results import read_part

    table = read_part(run, shard, ["id", "image_sha256"])
    text = json.dumps(table.to_pylist(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_of(run: RunFolder) -> Record:
    """job.json, or what is wrong with it."""
    return read_record(run.job, "job.json")
