"""The actor that measures: the results of one shard in, one part of metrics out.

A row that cannot be measured is a row of nulls with `metrics_error`, never an exception.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dstc_engine import image
from dstc_engine.errors import PictureError
from dstc_engine.request import Picture
from jobs.errors import StorageError
from jobs.evaluation.plan import IDENTITY, Judging, metrics_part, pictures_sum, record_of
from jobs.reporting.cards import manifest_folders
from jobs.store import storage
from jobs.store.results import DONE, read_part
from jobs.store.run_folder import RunFolder

if TYPE_CHECKING:
    from dstc_engine.metrics.features import Judges

FEATURES = ("structure_distance", "style_similarity", "clip_score", "clip_direction")
PIXELS = ("truth_psnr", "truth_ssim", "truth_l1")
METRICS = (*FEATURES, *PIXELS)
# What every table has beside the results: the content and the style handed in as if they were.
BASELINES = ("source_copy", "style_copy")
COLUMNS = (*METRICS, *(f"{baseline}_{name}" for baseline in BASELINES for name in METRICS))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        *((name, pa.float64()) for name in COLUMNS),
        ("metrics_error", pa.string()),
    ]
)


class MeasureShard:
    """Ray Data calls it with one shard's number at a time.

    Args:
        output: the run folder. judging: what measures. device: "cuda" or "cpu".
        threads: of the CPU.
    """

    def __init__(self, output: str, judging: Judging, device: str, threads: int) -> None:
        import torch

        if device == "cpu":
            torch.set_num_threads(threads)
        self._run = RunFolder(output)
        self._judging = judging
        self._judges = load_judges(judging, device)
        self._folder_of = manifest_folders(record_of(self._run))

    def __call__(self, batch: pa.Table) -> pa.Table:
        for shard in batch["shard"].to_pylist():
            self._measure(shard)
        return batch

    def _measure(self, shard: int) -> None:
        seen = pictures_sum(self._run, shard)
        folder = self._folder_of(shard)
        rows = [self._row(row, folder) for row in read_part(self._run, shard).to_pylist()]
        identity = {"judging": json.loads(self._judging.text), "pictures": seen}
        schema = SCHEMA.with_metadata({IDENTITY: json.dumps(identity).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
        storage.write_bytes(metrics_part(self._run, shard), sink.getvalue().to_pybytes())

    def _row(self, row: Mapping[str, Any], folder: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {"id": row["id"], "status": row["status"]}
        if row["status"] != DONE:
            return found
        try:
            found |= _without_nan(self._measures(row, folder))
        except (PictureError, StorageError, OSError, ValueError) as error:
            found["metrics_error"] = storage.redact(f"{type(error).__name__}: {error}")
        return found

    def _measures(self, row: Mapping[str, Any], folder: str | None) -> dict[str, float]:
        result = _read(storage.join(self._run.uri, row["image"]))
        content = self._input(row["content"], folder, result)
        style = self._input(row["style"], folder, result) if row.get("style") else None
        truth = None
        if self._judging.truth and row.get(self._judging.truth):
            truth = self._input(row[self._judging.truth], folder, result)
        found = measure(self._judges, row, result, content, style, truth)
        for baseline, copy in zip(BASELINES, (content, style), strict=True):
            if copy is not None:
                of_copy = measure(self._judges, row, copy, content, style, truth)
                found |= {f"{baseline}_{name}": value for name, value in of_copy.items()}
        return found

    def _input(self, uri: str, folder: str | None, result: Picture) -> Picture:
        """A picture of the row, fitted as the engine did it, of the result's size."""
        picture = _read(storage.resolve(uri, folder or ""))
        fitted = image.fit(picture, self._judging.image_size, self._judging.fit)
        if self._judging.fit == "pad":
            fitted = image.unpad(fitted, *picture.shape[:2])
        if fitted.shape != result.shape:
            raise PictureError(
                f"{uri}: {fitted.shape[1]} x {fitted.shape[0]} pixels once fitted; expected the "
                f"result's {result.shape[1]} x {result.shape[0]}"
            )
        return fitted


def load_judges(judging: Judging, device: str) -> Judges:
    """The networks that judge.

    Raises:
        WeightsError: missing or wrong weights.
    """
    import torch

    from dstc_engine.metrics.features import Judges
    from dstc_engine.weights.load import load_clip, load_dino

    dino = clip = None
    if judging.dino:
        dino = load_dino(judging.dino, judging.dino_size, judging.dino_layer)
    if judging.clip:
        clip = load_clip(judging.clip)
    for network in filter(None, (dino, clip)):
        network.eval().requires_grad_(False).to(device)
    return Judges(dino, clip, torch.device(device))


def measure(
    judges: Judges,
    row: Mapping[str, Any],
    result: Picture,
    content: Picture,
    style: Picture | None,
    truth: Picture | None,
) -> dict[str, float]:
    """All METRICS of one picture, NaN where the row has no such part."""
    from dstc_engine.metrics import pixels

    prompt, source_prompt = row.get("prompt") or None, row.get("source_prompt") or None
    found = judges.measure(result, content, style, prompt, source_prompt)
    ways: dict[str, Callable[[Picture, Picture], float]] = {
        "truth_psnr": pixels.psnr,
        "truth_ssim": pixels.ssim,
        "truth_l1": pixels.l1,
    }
    for name, way in ways.items():
        found[name] = way(result, truth) if truth is not None else math.nan
    return found


def _read(uri: str) -> Picture:
    return image.decode(storage.read_bytes(uri), storage.redact(uri))


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
