"""Reads a pilot: the rows of a finished guided run that a student may learn from, and their images.

Contents and style images are read from where the manifest says, through the same door as when the
run was made.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dstc.errors import SettingsError
from dstc.evaluation.plan import preset_of, record_of
from dstc.reporting.cards import inputs_of, relative_to
from dstc.store import retries, urls
from dstc.store.cells import read_records, texts
from dstc.store.input_policy import STRICT, InputPolicy
from dstc.store.inputs import read_input
from dstc.store.json_record import Record
from dstc.store.results import DONE, read_part
from dstc.store.run_folder import RunFolder
from dstc.text import describe, redact, shortened
from dstc.worker.image_cache import ImageCache
from dstc.worker.row import Failed, Rejected, Row, load_request
from dstc_engine.errors import ImageError
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, TranslationRequest

if TYPE_CHECKING:
    from dstc_engine.decoding.read import Decoded
    from dstc_engine.student.pairs import Pairs

_COLUMNS = (
    *("id", "status", "flagged", "image", "image_sha256", "made_by"),
    *("content", "style", "prompt", "source_prompt", "mask"),
)
_READERS = 8
# Rows whose images, of any size, are in memory together; what is kept of them is fitted.
_AT_ONCE = 64
_STYLE_BYTES = 256 << 20


@dataclass(frozen=True)
class PilotRow:
    """A row that a student may learn from.

    Attributes:
        row: as the worker had it. image: path of the result in the run folder. sha256: of it.
    """

    row: Row
    image: str
    sha256: str | None


@dataclass(frozen=True)
class Pilot:
    """A finished run, and which of its rows a student may learn from.

    Attributes:
        run: its folder. preset: it ran with. run_id, fingerprint: of its job.
        rows: done, not flagged, without a mask. left_out: the others, by why.
        folder: what relative URIs start at. inputs: what the URIs of rows may name.
    """

    run: RunFolder
    preset: Preset
    run_id: str
    fingerprint: str
    rows: Sequence[PilotRow]
    left_out: Mapping[str, int]
    folder: str | None
    inputs: InputPolicy

    @property
    def told(self) -> dict[str, Any]:
        """What a student's description tells of it."""
        return {"run_id": self.run_id, "fingerprint": self.fingerprint, "rows": len(self.rows)}


def open_pilot(output: str, inputs: InputPolicy = STRICT) -> Pilot:
    """Reads the result rows of a run.

    Args:
        output: the run folder; path or URL. inputs: what its rows may name; local files also where
            run and manifest lie here.

    Raises:
        RunFolderError: there is no run, or a part of it cannot be read.
        OSError: storage does not answer.
    """
    run = RunFolder(urls.folder(output))
    job = record_of(run)
    preset = preset_of(job, run)
    rows: list[PilotRow] = []
    left_out: Counter[str] = Counter()
    for record in _records(run):
        why = _left_out(record)
        if why is None:
            rows.append(_row(record))
        else:
            left_out[why] += 1
    return Pilot(
        run=run,
        preset=preset,
        run_id=_text(job, "run_id"),
        fingerprint=_text(job, "fingerprint"),
        rows=rows,
        left_out=dict(left_out),
        folder=relative_to(job),
        inputs=inputs_of(run, job, inputs),
    )


def _text(job: Record, name: str) -> str:
    return str(job.values.get(name, "unknown"))


def _records(run: RunFolder) -> Iterator[dict[str, Any]]:
    for shard in run.parts():
        part = read_part(run, shard, _COLUMNS, patience=retries.STEADY)
        yield from (texts(record) for record in read_records(part, _COLUMNS))


def _left_out(record: Mapping[str, Any]) -> str | None:
    if record["status"] != DONE:
        return str(record["status"])
    if record.get("made_by") == "student":
        return "made by a student"
    if record.get("flagged"):
        return "flagged"
    # Outside its mask a result is its content, which says nothing of the look.
    return "masked" if record.get("mask") else None


def _row(record: Mapping[str, Any]) -> PilotRow:
    row = Row(
        id=record["id"],
        content=record["content"],
        style=record.get("style"),
        prompt=record.get("prompt"),
        source_prompt=record.get("source_prompt"),
        mask=None,
        seed=0,  # of no use for the looks
    )
    return PilotRow(row, record["image"], record.get("image_sha256"))


def check_pilot(pilot: Pilot, least_rows: int) -> None:
    """Says what can be said before any image is read.

    Raises:
        SettingsError: the pilot has too few rows; or so has a look, as far as its URIs tell it.
    """
    from dstc_engine.student.pairs import LookCount, look_name, refuse_small_looks

    shown = redact(pilot.run.uri)
    others = ", ".join(f"{count} {why}" for why, count in sorted(pilot.left_out.items()))
    if len(pilot.rows) < least_rows:
        raise SettingsError(
            f"run {shown}: {len(pilot.rows)} rows to learn from"
            + (f" (left out: {others})" if others else "")
            + f"; expected {least_rows} or more of each look that are done and not flagged"
        )
    counts = Counter((each.row.style, each.row.prompt) for each in pilot.rows)
    # Two URIs may name equal images. With one or none the counts are exact; where they are far too
    # small, no image need be read to know it.
    is_exact = len({style for style, _ in counts if style}) <= 1
    if is_exact or len(pilot.rows) / len(counts) < least_rows / 4:
        found = [LookCount(look_name(*look), rows) for look, rows in counts.items()]
        refuse_small_looks(found, least_rows)


def read_pairs(pilot: Pilot, val_share: float, least_rows: int) -> Pairs:
    """Contents and results of a pilot, fitted, in memory.

    Args:
        val_share, least_rows: as in `student.training.StudentTraining`.

    Raises:
        SettingsError: contents or results cannot be read; the first few are named.
        UserError: a look has too few rows.
    """
    from dstc_engine.student.pairs import PairsBuilder

    builder = PairsBuilder(pilot.preset, val_share)
    faults: list[str] = []
    # Rows share the style's array, as in a worker; contents are met once.
    caches: dict[str, ImageCache[Decoded]] = {"style": ImageCache(_STYLE_BYTES)}

    def read(each: PilotRow) -> tuple[TranslationRequest, ImageArray] | str:
        try:
            request = load_request(
                each.row,
                pilot.folder or "",
                lambda uri: read_input(uri, pilot.inputs, retries.STEADY),
                caches,
            )
            return request, _result(pilot, each)
        except (Rejected, Failed, ImageError, OSError, ValueError) as error:
            return f"row {each.row.id!r}: {shortened(redact(_fault(error)))}"

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(pilot.rows), _AT_ONCE):
            some = pilot.rows[start : start + _AT_ONCE]
            for each, found in zip(some, pool.map(read, some), strict=True):
                if isinstance(found, str):
                    faults.append(found)
                else:
                    builder.add(*found, style=each.row.style)
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise SettingsError(
            f"run {redact(pilot.run.uri)}: images of {len(faults)} of {len(pilot.rows)} rows "
            f"cannot be read: {'; '.join(faults[:3])}{more}. A student learns from contents and "
            "results: bring them back to where the manifest and the run had them"
        )
    return builder.build(least_rows)


def _fault(error: Exception) -> str:
    """What went wrong with a row; its own texts tell it whole."""
    return str(error) if isinstance(error, (Rejected, Failed, ImageError)) else describe(error)


def _result(pilot: Pilot, each: PilotRow) -> ImageArray:
    from dstc_engine.image import decode

    place = urls.inside(pilot.run.uri, each.image)
    data = read_input(place, replace(pilot.inputs, any_local=True), retries.STEADY)
    if each.sha256 and hashlib.sha256(data).hexdigest() != each.sha256:
        raise ImageError(
            f"result {each.image}: other bytes than were written; `dstc verify` tells which"
        )
    return decode(data, f"result {each.image}")
