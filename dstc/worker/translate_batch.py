"""The actor of a processor: batches of rows in, the same rows with images out; no run folder.

    columns -> fetch, decode, fit (threads) -> engine (one thread) -> PNG in a column

Ray calls it with two batches at a time, so that slots stay full while the older one ends.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa

from dstc.engines.registry import find_engine
from dstc.log_lines import show_logs
from dstc.planning.settings import Settings
from dstc.store import retries
from dstc.store.inputs import read_input
from dstc.store.results import DONE, Outcome
from dstc.store.run_folder import RunFolder
from dstc.worker.engine_thread import EngineThread
from dstc.worker.row import Rejected, derive_seed, load_file
from dstc.worker.row_outcome import outcome_of
from dstc.worker.shard_task import ShardTask
from dstc.worker.translate_shard import FETCH_THREADS, READ_DEADLINE_S
from dstc_engine.errors import RequestError
from dstc_engine.request import ImageArray, Translation, TranslationRequest

_OUTCOME = pa.schema(
    [
        pa.field("image", pa.large_binary()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("error", pa.string()),
        pa.field("seed", pa.int64()),
    ]
)
_TEXTS = ("prompt", "source_prompt")


class TranslateBatch:
    """Translates batches of rows.

    Args:
        settings: of preset, engine and inputs; manifest and output mean nothing here.
        device: "cuda" or "cpu". cpu_threads: of torch. weights: the driver's bucket of them.
    """

    def __init__(
        self, settings: Settings, device: str, cpu_threads: int, weights: str | None
    ) -> None:
        show_logs()
        spec = find_engine(settings.engine)
        folder = RunFolder(settings.output)
        task = ShardTask(settings, folder, "", "", device, cpu_threads, weights)
        self._settings, self._prepare = settings, spec.prepare(settings)
        self._engine = EngineThread(
            spec.make(task), settings.slots, deadline_s=settings.row_deadline_s
        )
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")
        self._orders = itertools.count()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows of a batch, in order, each with `image`, `status`, `reason`, `error`, `seed`.

        Columns of the batch with these names, but `seed`, get `input_` before them.
        """
        order = next(self._orders)
        rows = batch.to_pylist()
        fetched = [self._fetchers.submit(self._request, row) for row in rows]
        waiting = [self._submitted(request, order) for request in fetched]
        ended = [_ended(found, row) for found, row in zip(waiting, rows, strict=True)]
        table = pa.Table.from_pylist(ended, schema=_OUTCOME)
        own = [name for name in batch.column_names if name != "seed"]
        columns = dict(zip(_renamed(own), [batch.column(name) for name in own], strict=True))
        return pa.table({**columns, **dict(zip(_OUTCOME.names, table.columns, strict=True))})

    def close(self) -> None:
        """Ends the threads; only needed where the process lives on."""
        self._engine.close()
        self._fetchers.shutdown()

    def _submitted(
        self, fetched: Future[TranslationRequest], order: int
    ) -> Future[Translation] | BaseException:
        try:
            return self._engine.submit(fetched.result(), order)
        except BaseException as error:  # whatever a decoder raises
            return error

    def _request(self, row: Mapping[str, Any]) -> TranslationRequest:
        from dstc_engine.decoding.mask import read_mask
        from dstc_engine.decoding.read import read_image

        for name in _TEXTS:
            if not isinstance(row.get(name), str | None):
                raise Rejected(
                    "bad_text", f"{name}: found {type(row[name]).__name__}; expected text"
                )
        content = self._pixels("content", row.get("content"), read_image)
        if content is None:
            raise Rejected("no_content", "content is empty; expected bytes or the URI of an image")
        try:
            return self._prepare(
                TranslationRequest(
                    id=str(row.get("id") or ""),
                    content=content,
                    seed=self._seed(row, content),
                    style=self._pixels("style", row.get("style"), read_image),
                    prompt=row.get("prompt"),
                    source_prompt=row.get("source_prompt"),
                    mask=self._pixels("mask", row.get("mask"), read_mask),
                )
            )
        except RequestError as error:
            raise Rejected("bad_request", str(error)) from error

    def _seed(self, row: Mapping[str, Any], content: ImageArray) -> int:
        seed = row.get("seed")
        if seed is None:
            name = str(row.get("id") or hashlib.sha256(content.tobytes()).hexdigest())
            return derive_seed(self._settings.seed, name)
        if not _is_whole(seed):
            raise Rejected("bad_seed", f"seed is {seed!r}; expected 0 .. 2**63 - 1")
        return seed

    def _pixels(
        self, column: str, cell: Any, decode: Callable[[bytes, str], Any]
    ) -> ImageArray | None:
        """Of bytes, of {bytes, path} as Hugging Face has it, of a URI, or pixels as they are."""
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if cell is None or isinstance(cell, np.ndarray):
            return cell
        if not isinstance(cell, bytes | str):
            raise Rejected(
                "bad_request",
                f"{column}: found {type(cell).__name__}; expected bytes, a URI, or uint8 (H, W, 3)",
            )
        if not cell:
            return None
        data = cell if isinstance(cell, bytes) else None
        uri = cell if isinstance(cell, str) else "bytes"

        def read(place: str) -> bytes:
            if data is not None:
                return data
            return read_input(place, self._settings.inputs, retries.FETCH, READ_DEADLINE_S)

        pixels: ImageArray = load_file(column, uri, "", read, decode).pixels
        return pixels


def _ended(waiting: Future[Translation] | BaseException, row: Mapping[str, Any]) -> dict[str, Any]:
    from dstc_engine.image import encode_png

    try:
        if isinstance(waiting, BaseException):
            raise waiting
        done = waiting.result()
        found = {"status": done.status, "reason": done.reason, "error": done.error}
        image = done.image if done.status == DONE else None
        data = None if image is None else encode_png(image)
        return {**found, "image": data, "seed": done.seed}
    except BaseException as error:  # a row at fault is a row of the result
        seed = row.get("seed")
        outcome: Outcome = outcome_of(error, None, {"id": row.get("id")})
        found = {"status": outcome.status, "reason": outcome.reason, "error": outcome.error}
        return {**found, "image": None, "seed": seed if _is_whole(seed) else None}


def _is_whole(seed: object) -> TypeGuard[int]:
    """A number that the column of seeds holds; a `True` is none."""
    return isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**63


def _renamed(names: list[str]) -> list[str]:
    taken = {*names, *_OUTCOME.names}
    found = []
    for name in names:
        if name in _OUTCOME.names:
            while name in taken:
                name = f"input_{name}"
            taken.add(name)
        found.append(name)
    return found
