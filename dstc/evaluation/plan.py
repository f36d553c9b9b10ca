"""Configuration of an evaluation, and the shards of a run that it has still to measure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import RunFolderError
from dstc.store import retries, storage, urls
from dstc.store.cells import read_records, texts
from dstc.store.json_record import Record, read_record
from dstc.store.results import read_part
from dstc.store.run_folder import RunFolder
from dstc.text import redact
from dstc_engine.presets import Preset

IDENTITY = b"dstc.evaluation"
THREADS = 16


@dataclass(frozen=True)
class EvaluationConfig:
    """Models, columns and image size of an evaluation; a part of another one is measured again.

    Attributes:
        dino, dino_size, dino_layer: the ViT and how it is read; "" measures nothing with one.
        clip: the CLIP model; "" measures nothing with one.
        identity, identity_crop: the face network and where it looks; "" measures nothing with one.
        lpips: "NETWORK=FILE"; "" measures nothing with one.
        segmentation: "foreground", "foreground:LEVEL", "NETWORK=FILE" or "".
        inception: file of the network that sets are compared by; "": the ViT's class token does.
        reference, where: images of known style, and which of them count.
        masks, truth, style_column: columns of the results: labels of the content, the ground truth,
            the name of the style that is wanted; None where there is none.
        image_size, fit: how images are fitted to the square that all networks see, as the engine
            does it. interpolation: how, and how networks resize from there.
        sums: sha256 of weights and files, by name.
    """

    dino: str
    dino_size: int
    dino_layer: int
    clip: str
    truth: str | None
    image_size: int
    fit: str
    identity: str = ""
    identity_crop: tuple[int, int, int, int] = (35, 223, 32, 220)
    lpips: str = ""
    segmentation: str = ""
    inception: str = ""
    reference: str = ""
    where: dict[str, str] = field(default_factory=dict)
    masks: str | None = None
    style_column: str | None = None
    interpolation: str = "Lanczos to image_size, from there bilinear"
    sums: dict[str, str] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """Its values as JSON makes them, for the identity of parts and for metrics.json."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record

    @property
    def set_network(self) -> str:
        """The network that sets are compared by."""
        return "inception-v3-compat, pool3" if self.inception else f"{self.dino}, class token"


def preset_of(job: Record, run: RunFolder) -> Preset:
    """The preset that job.json holds.

    Raises:
        RunFolderError: there is no job.json, or none of this program.
    """
    shown = redact(run.uri)
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
    return urls.join(run.uri, "metrics", f"part-{shard:05d}.parquet")


def features_part(run: RunFolder, shard: int) -> str:
    """URI of the features of a shard's images, by which sets are compared."""
    return urls.join(run.uri, "metrics", f"features-{shard:05d}.parquet")


def reference_part(run: RunFolder, number: int) -> str:
    """URI of the features of some images of the reference."""
    return urls.join(run.uri, "metrics", f"reference-{number:05d}.parquet")


def read_metrics(run: RunFolder, shard: int) -> pa.Table | None:
    """The measures of a shard; None where there are none, or the file is damaged.

    Raises:
        OSError: storage does not answer.
    """
    return read_table(metrics_part(run, shard))


def read_table(uri: str) -> pa.Table | None:
    """A Parquet file; None where there is none, or it is damaged.

    Raises:
        OSError: storage does not answer.
    """
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    except (FileNotFoundError, pa.ArrowException):
        return None


def write_table(uri: str, table: pa.Table, identity: dict[str, Any]) -> None:
    """Writes a Parquet file with the identity of its evaluation as metadata."""
    sink = pa.BufferOutputStream()
    labeled = table.replace_schema_metadata({IDENTITY: json.dumps(identity).encode()})
    pq.write_table(labeled, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes(), retries.STEADY)


def identity_of(table: pa.Table | None) -> Any:
    """Identity in a file's metadata; None where there is none."""
    if table is None:
        return None
    return json.loads((table.schema.metadata or {}).get(IDENTITY, b"null"))


def shard_identity(config: EvaluationConfig, images: str) -> dict[str, Any]:
    """Identity of a shard's measures: the configuration, and the sum over its images."""
    return {"judging": config.record, "pictures": images}


def unmeasured(run: RunFolder, config: EvaluationConfig, shards: Sequence[int]) -> list[int]:
    """Shards without measures by this very evaluation.

    A shard's part of results changes when its rows are tried again; what it had measured says so
    itself, by the sum over the images it saw.
    """
    names = set(storage.list_names(urls.join(run.uri, "metrics")))

    def is_measured(shard: int) -> bool:
        if f"part-{shard:05d}.parquet" not in names:
            return False
        identity = identity_of(read_metrics(run, shard))
        return bool(identity == shard_identity(config, images_sum(run, shard)))

    with ThreadPoolExecutor(THREADS) as pool:  # storage answers each in tens of milliseconds
        measured = pool.map(is_measured, shards)
        return [shard for shard, done in zip(shards, measured, strict=True) if not done]


def images_sum(run: RunFolder, shard: int) -> str:
    """Checksum of ids and images of a shard's results; changes when any of its rows does."""
    table = read_part(run, shard, ["id", "image_sha256"])
    text = json.dumps([texts(record) for record in read_records(table)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_of(run: RunFolder) -> Record:
    """Reads job.json; what is wrong with it is part of the record."""
    return read_record(run.job, "job.json")
