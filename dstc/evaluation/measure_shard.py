"""Actor of an evaluation: the results of one shard in, one Parquet part of metrics out.

A row whose images cannot be read is a row of nulls with `metrics_error`, never an exception. What
goes wrong in the measuring itself is no fault of a row, and ends the job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dstc.errors import JobError
from dstc.evaluation.load_models import load_evaluation_models
from dstc.evaluation.plan import (
    EvaluationConfig,
    features_part,
    images_sum,
    metrics_part,
    record_of,
    reference_part,
    shard_identity,
    write_table,
)
from dstc.evaluation.reference import CHUNK, read_reference
from dstc.reporting.cards import relative_to
from dstc.store import retries, storage, urls, weights_bucket
from dstc.store.cells import is_blank, read_records, texts
from dstc.store.results import DONE, read_part
from dstc.store.run_folder import RunFolder
from dstc.text import describe, redact
from dstc.worker.image_cache import ImageCache
from dstc_engine.errors import ImageError
from dstc_engine.metrics import METRICS
from dstc_engine.request import ImageArray

if TYPE_CHECKING:
    from torch import Tensor

    from dstc_engine.metrics.evaluation_models import EvaluationModels, ImageFeatures
    from dstc_engine.metrics.style_classifier import StyleClassifier

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
# What is read of results, beside the columns that the configuration names.
_READ_COLUMNS = ("id", "status", "image", "content", "style", "prompt", "source_prompt")
# Rows whose images are in memory together.
_ROWS_AT_ONCE = 32
_READERS = 8
# Fitted images that rows share: at 256 pixels 1,300 of them.
_SHARED_BYTES = 256 << 20
# SSIM looks through windows of so many pixels.
_LEAST_SIDE = 11


@dataclass(frozen=True)
class MeasureTask:
    """Arguments of every actor of an evaluation.

    Attributes:
        output: the run folder. config: of the evaluation. device: "cuda" or "cpu".
        threads: of the CPU. classifier: of styles, fitted, or None.
        features_per_shard: rows of a shard whose features are kept, for sets.
        weights: the driver's bucket of weights.
    """

    output: str
    config: EvaluationConfig
    device: str
    threads: int
    classifier: StyleClassifier | None
    features_per_shard: int
    weights: str | None


@dataclass(frozen=True, eq=False)
class RowImages:
    """The images of one row in the square that all networks see.

    Attributes:
        labels: (H, W) uint8, what is where in the content. region: rows and columns of the square
            that are no padding.
    """

    result: ImageArray
    content: ImageArray
    style: ImageArray | None
    truth: ImageArray | None
    labels: ImageArray | None
    region: tuple[slice, slice]


class MeasureShard:
    """Measures shards and chunks of the reference; Ray Data calls it with one number at a time.

    Args:
        task: of the evaluation.
    """

    def __init__(self, task: MeasureTask) -> None:
        self._task = task
        self._run = RunFolder(task.output)
        self._models: EvaluationModels | None = None
        self._folder = relative_to(record_of(self._run))
        # Ten million rows in ten styles would ask storage ten million times for ten files.
        self._images = ImageCache(_SHARED_BYTES)

    def __call__(self, batch: pa.Table) -> pa.Table:
        for of_reference, number in zip(*batch.to_pydict().values(), strict=True):
            (self._measure_reference if of_reference else self._measure)(number)
        return batch

    @property
    def models(self) -> EvaluationModels:
        """Loaded at first use: Ray takes an error in an actor's constructor for its death."""
        if self._models is None:
            import torch

            task = self._task
            if task.device == "cpu":
                torch.set_num_threads(task.threads)
            weights_bucket.use(task.weights)
            self._models = load_evaluation_models(task.config, task.device, task.classifier)
        return self._models

    def _measure(self, shard: int) -> None:
        config = self._task.config
        identity = shard_identity(config, images_sum(self._run, shard))
        folder = self._folder
        rows: list[dict[str, Any]] = []
        features = _Features()
        used = (config.masks, config.truth, config.style_column)
        # Not the other columns: of a large shard, losses as Python objects would fill the memory.
        names = list(dict.fromkeys([*_READ_COLUMNS, *filter(None, used)]))
        part = read_part(self._run, shard, names, patience=retries.STEADY)
        results = [texts(record) for record in read_records(part, names)]
        for start in range(0, len(results), _ROWS_AT_ONCE):
            rows += self._rows(results[start : start + _ROWS_AT_ONCE], folder, features)
            features.cut(self._task.features_per_shard * len(features.SETS))
        write_table(features_part(self._run, shard), features.table(), identity)
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        write_table(metrics_part(self._run, shard), table, identity)

    def _rows(
        self, rows: Sequence[Mapping[str, Any]], folder: str | None, features: _Features
    ) -> Iterator[dict[str, Any]]:
        """The measures of some rows, in their order."""

        def read(row: Mapping[str, Any]) -> RowImages | str | None:
            if row["status"] != DONE:
                return None
            try:
                return read_images(self._run, self._task.config, row, folder, self._images)
            except Exception as error:  # drivers of storage raise their own types
                return describe(error)

        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(read, rows))
        # In one go: networks see many images at once.
        images = [
            image
            for read_row in found
            if isinstance(read_row, RowImages)
            for image in (read_row.result, read_row.content, read_row.style)
            if image is not None
        ]
        extracted = iter(self.models.features(images))
        for row, read_row in zip(rows, found, strict=True):
            record: dict[str, Any] = {"id": row["id"], "status": row["status"]}
            if isinstance(read_row, str):
                record["metrics_error"] = read_row
            elif read_row is not None:
                seen = [next(extracted), next(extracted)]
                seen += [next(extracted)] if read_row.style is not None else []
                style = row.get(self._task.config.style_column or "")
                features.add(seen, None if style is None else str(style))
                record |= _without_nan(measure(self.models, self._task.config, row, read_row, seen))
            yield record

    def _measure_reference(self, number: int) -> None:
        config = self._task.config
        reference = read_reference(config.reference, config.where)
        chunk = range(number * CHUNK, min((number + 1) * CHUNK, len(reference.images)))
        features = _Features()
        for start in range(0, len(chunk), _ROWS_AT_ONCE):
            some = chunk[start : start + _ROWS_AT_ONCE]
            try:
                images = [reference.decode(n, config.image_size, config.fit) for n in some]
            except Exception as error:  # no set without all of its images
                reason = describe(error)
                raise JobError(f"--reference: {reason}") from error
            described = self.models.describe(images)
            assert described is not None, "chunks are asked for where something describes them"
            for n, values in zip(some, described, strict=True):
                style = reference.styles[n]
                features.add_to("reference", values, None if style is None else str(style))
        write_table(reference_part(self._run, number), features.table(), {"judging": config.record})


class _Features:
    """Features of images, for the distances between sets."""

    SETS = ("results", *BASELINES)

    def __init__(self) -> None:
        self._sets: list[str] = []
        self._styles: list[str | None] = []
        self._values: list[np.ndarray[Any, Any]] = []

    def add(self, images: Sequence[ImageFeatures], style: str | None) -> None:
        """Those of a row: of result, content and, where there is one, style."""
        for name, features in zip(self.SETS, images, strict=False):
            if "set" in features:
                self.add_to(name, features["set"], style)

    def add_to(self, name: str, values: Tensor, style: str | None) -> None:
        self._sets.append(name)
        self._styles.append(style)
        # Half the bytes; its error of a thousandth is far below what sets of images vary by.
        self._values.append(values.to("cpu").numpy().astype(np.float16))

    def cut(self, most: int) -> None:
        del self._sets[most:], self._styles[most:], self._values[most:]

    def table(self) -> pa.Table:
        width = len(self._values[0]) if self._values else 1
        flat = np.concatenate(self._values) if self._values else np.empty(0, np.float16)
        return pa.table(
            {
                "set": pa.array(self._sets, pa.string()),
                "style": pa.array(self._styles, pa.string()),
                "features": pa.FixedSizeListArray.from_arrays(pa.array(flat), width),
            }
        )


def read_images(
    run: RunFolder,
    config: EvaluationConfig,
    row: Mapping[str, Any],
    folder: str | None,
    cache: ImageCache,
) -> RowImages:
    """The images of a row that is done, fitted to the square.

    Args:
        folder: what relative URIs start at. cache: for images that rows share, fitted.

    Raises:
        ImageError, StorageError, OSError: one of them cannot be read.
    """
    from dstc_engine.image import fit as fit_image
    from dstc_engine.image import fit_labels

    size, fit = config.image_size, config.fit

    def place(column: str | None) -> str | None:
        uri = row.get(column) if column else None
        if uri is None or (isinstance(uri, str) and is_blank(uri)):
            return None
        if not isinstance(uri, str):
            raise ImageError(f"column {column!r}: found {uri!r:.80}; expected the URI of an image")
        return urls.resolve(uri, folder or "")

    def given(column: str | None) -> ImageArray | None:
        uri = place(column)
        return cache.get(uri, lambda: fit_image(_read(uri), size, fit)) if uri else None

    content, mask = given("content"), place(config.masks)
    assert content is not None, "a row without content is not done"
    result = _read(urls.join(run.uri, row["image"]))
    whole = np.ones(result.shape[:2], np.uint8)
    inside = fit_labels(whole, size, fit).astype(bool)
    return RowImages(
        result=fit_image(result, size, fit),
        content=content,
        style=given("style"),
        truth=given(config.truth),
        labels=fit_labels(_read(mask)[..., 0], size, fit) if mask else None,
        region=(_span(inside.any(axis=1)), _span(inside.any(axis=0))),
    )


def measure(
    models: EvaluationModels,
    config: EvaluationConfig,
    row: Mapping[str, Any],
    images: RowImages,
    features: Sequence[ImageFeatures],
) -> dict[str, float]:
    """Metrics of a row, by the names of COLUMNS; NaN where no model measures it.

    Args:
        features: of result, content and, where there is one, style.
    """
    import torch

    labels = None
    if images.labels is not None:
        labels = torch.from_numpy(images.labels.astype(np.int64))
        if config.segmentation.startswith("foreground"):
            labels = (labels >= 128).to(labels.dtype)  # masks are white where it counts
        labels = labels.to(models.device)
    content, style = features[1], features[2] if len(features) > 2 else None
    wanted = row.get(config.style_column or "")
    found: dict[str, float] = {}
    shown = (images.result, images.content, images.style)
    for prefix, image, seen in zip(
        ("", *(f"{name}_" for name in BASELINES)), shown, (*features, None), strict=False
    ):
        if image is None or seen is None:
            continue
        values = models.compare(
            seen,
            content,
            style,
            prompt=row.get("prompt") or None,
            source_prompt=row.get("source_prompt") or None,
            target_style=None if wanted is None else str(wanted),
            labels=labels,
        )
        values["lpips"] = models.perceptual_distance(image, images.content)
        if images.truth is not None:
            values["truth_lpips"] = models.perceptual_distance(image, images.truth)
            values |= _by_pixels(image[images.region], images.truth[images.region])
        found |= {f"{prefix}{name}": value for name, value in values.items()}
    return found


def _by_pixels(image: ImageArray, truth: ImageArray) -> dict[str, float]:
    from dstc_engine.metrics import pixels

    ways: dict[str, Callable[[ImageArray, ImageArray], float]] = {
        "truth_psnr": pixels.psnr,
        "truth_l1": pixels.l1,
    }
    if min(truth.shape[:2]) >= _LEAST_SIDE:
        ways["truth_ssim"] = pixels.ssim
    return {name: way(image, truth) for name, way in ways.items()}


def _span(inside: Any) -> slice:
    (places,) = np.nonzero(inside)
    return slice(int(places[0]), int(places[-1]) + 1)


def _read(uri: str) -> ImageArray:
    from dstc_engine.image import decode

    return decode(storage.read_bytes(uri), redact(uri))


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}
