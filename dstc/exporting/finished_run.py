"""A finished run: its rows, its images, and its contents fitted as the results are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from dstc.errors import JobError, RunFolderError, SettingsError
from dstc.reporting.cards import inputs_of, relative_to
from dstc.store import retries, urls
from dstc.store.byte_ranges import byte_range, read_stored
from dstc.store.input_policy import InputPolicy, shown_uri
from dstc.store.inputs import read_input
from dstc.store.json_record import Record, read_record
from dstc.store.results import DONE, FAILED, REJECTED, read_part
from dstc.store.run_folder import ENDINGS, RunFolder
from dstc.text import describe, redact, shown

# Of results, what a data set has no use for: texts of losses are most of a row.
_HEAVY = frozenset({"losses"})
_NOT_DONE = (REJECTED, FAILED)


@dataclass(frozen=True)
class FinishedRun:
    """A run whose every row has ended.

    Attributes:
        run: its folder. job: job.json. summary: summary.json. inputs: what its contents may be.
    """

    run: RunFolder
    job: Record
    summary: Record
    inputs: InputPolicy

    @classmethod
    def open(cls, output: str, inputs: InputPolicy) -> FinishedRun:
        """Opens a run folder.

        Raises:
            RunFolderError: there is no run, or one that is not finished.
        """
        run = RunFolder(urls.folder(output))
        job = read_record(run.job, "job.json")
        if job.problem:
            raise RunFolderError(
                f"run {redact(run.uri)}: job.json {job.problem}; expected the folder of a run"
            )
        summary = read_record(run.summary, "summary.json")
        if summary.problem:
            raise RunFolderError(
                f"run {redact(run.uri)}: not finished (summary.json {summary.problem}); finish it "
                "with the `dstc translate` that began it; `dstc status` says how far it is"
            )
        return cls(run, job, summary, inputs_of(run, job, inputs))

    def require_done(self) -> None:
        """Refuses a run without an image.

        Raises:
            RunFolderError: no row is done; it says what the rows are instead.
        """
        counts = {name: int(self.summary.values.get(name) or 0) for name in (DONE, *_NOT_DONE)}
        if counts[DONE]:
            return
        found = [name for name in _NOT_DONE if counts[name]]
        ended = ", ".join(f"{counts[name]:,} {name}" for name in found)
        retry = " or ".join(f"`--retry {name}`" for name in found)
        shown_run = redact(self.run.uri)
        raise RunFolderError(
            f"run {shown_run}: none of its {sum(counts.values()):,} rows is done"
            + (f" ({ended})" if ended else "")
            + f"; expected at least 1. `dstc status {shown_run}` says why"
            + (f"; the same `dstc translate` with {retry} runs them again" if retry else "")
        )

    @cached_property
    def shards(self) -> list[int]:
        """Numbers of its parts, ascending."""
        return self.run.parts()

    def columns(self) -> pa.Schema:
        """Columns of its results, but the losses; those that any part has.

        Raises:
            RunFolderError: it has no parts, or of types that do not go together.
        """
        names: dict[str, pa.Field] = {}
        for part in self._some_parts():
            for field in part.schema.remove_metadata():
                if names.get(field.name) is None or pa.types.is_null(names[field.name].type):
                    names[field.name] = field
        if not names:
            raise RunFolderError(f"run {redact(self.run.uri)}: it has no results")
        return pa.schema(names.values())

    def _some_parts(self) -> Iterator[pa.Table]:
        # All parts of one version of this program have the same columns.
        for shard in dict.fromkeys([*self.shards[:1], *self.shards[-1:]]):
            yield self.part(shard).slice(0, 0)

    def part(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """Result rows of a shard, without their losses.

        Raises:
            RunFolderError: the part is damaged.
        """
        table = read_part(self.run, shard, columns, retries.STEADY)
        return table.select([name for name in table.schema.names if name not in _HEAVY])

    def done(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Parts of rows that are done, in order.

        Args:
            columns: those to read; all but the losses by default.
        """
        needed = None if columns is None else list(dict.fromkeys([*columns, "status"]))
        for shard in self.shards:
            table = self.part(shard, needed)
            is_done = [status == DONE for status in table.column("status").to_pylist()]
            places = pa.array([n for n, done in enumerate(is_done) if done], pa.int64())
            yield table.take(places)

    def require(self, column: str | None, option: str) -> None:
        """Refuses a column that the results do not have.

        Raises:
            SettingsError: and says which there are.
        """
        if column is None:
            return
        names = self.columns().names
        if column not in names:
            raise SettingsError(
                f"{option}: found {column!r}; expected a column of the results: {', '.join(names)}"
            )

    # -- images ----------------------------------------------------------------------------------

    def image(self, name: str, sha256: str) -> bytes:
        """The bytes of an image.

        Raises:
            JobError: it is not there, or not as it was written.
        """
        advice = "`dstc verify --repair`, then the same `dstc translate`, make it again"
        try:
            data = read_stored(urls.inside(self.run.uri, name), retries.STEADY)
        except OSError as error:
            what = f"{shown(name)} cannot be read: {describe(error)}"
            raise JobError(f"{what}; {advice}") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise JobError(f"{shown(name)}: not as it was written; {advice}")
        return data

    def ending(self, name: str) -> str:
        """How the file of an image is to end; names of bytes in a container do not say it."""
        if byte_range(name) is None:
            return name.rpartition(".")[2]
        kind = str(self.job.part("settings").get("format", "png"))
        return ENDINGS.get(kind, kind)

    def content(self, row: Mapping[str, Any]) -> bytes:
        """The content of a row as a PNG that lies on its result pixel for pixel.

        Raises:
            JobError: it cannot be read any more.
        """
        from dstc_engine.decoding.read import read_image
        from dstc_engine.errors import ImageError
        from dstc_engine.image import encode_png, fit, unpad

        uri = str(row["content"])
        try:
            place = urls.resolve(uri, self._manifest_folder or "")
            pixels = read_image(read_input(place, self.inputs, retries.STEADY), uri).pixels
        except (OSError, ImageError, ValueError) as error:
            raise JobError(
                f"content {shown_uri(uri)} of row {shown(row['id'])!r}: {describe(error, uri)}; "
                "--pairs needs all contents"
            ) from error
        preset = self.job.part("preset")
        size = int(preset.get("image_size", 0))
        mode = (row.get("placement") or {}).get("fit") or str(preset.get("fit", "crop"))
        if mode == "whole" or not size:
            return encode_png(pixels)
        fitted = fit(pixels, size, mode)
        return encode_png(unpad(fitted, *pixels.shape[:2]) if mode == "pad" else fitted)

    @cached_property
    def _manifest_folder(self) -> str | None:
        return relative_to(self.job)
