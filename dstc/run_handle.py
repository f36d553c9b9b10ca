"""`Run`: a run folder for Python: counts, results as an Arrow table, images, the report."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from dstc.errors import JobError, RunFolderError
from dstc.status import Status, read_status
from dstc.store import retries, urls
from dstc.store.byte_ranges import read_stored
from dstc.store.results import DONE, part_columns, read_part
from dstc.store.run_folder import RunFolder
from dstc.text import describe, redact, shown

if TYPE_CHECKING:
    from PIL import Image

# Texts of losses are most of a row.
_HEAVY = ("losses", "samples")


@dataclass(frozen=True)
class Run:
    """A run folder, finished or not; everything is read when it is asked for.

    Attributes:
        uri: of the folder.

    Example:
        run = dstc.open_run("output")
        print(run.status.done, run.table().column_names)
    """

    uri: str

    @property
    def status(self) -> Status:
        """How far it is, and its counts: `done`, `rejected`, `failed`, `flagged`, reasons.

        Raises:
            RunFolderError: the folder holds no run.
            JobError: storage does not answer.
        """
        try:
            return read_status(self.uri)
        except OSError as error:
            raise self._unread(error) from error

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The result rows of the shards that have ended, in the order of the manifest.

        Args:
            columns: those to read; all but `losses` and `samples` by default, which are most of the
                bytes. The table is in memory: name the columns you need of a large run.

        Raises:
            RunFolderError: a part is damaged, or lacks a column.
            JobError: storage does not answer.
        """
        run = RunFolder(self.uri)
        tables = []
        try:
            for shard in run.parts():
                found = part_columns(run, shard)
                wanted = [n for n in found if n not in _HEAVY] if columns is None else list(columns)
                if missing := [name for name in wanted if name not in found]:
                    raise RunFolderError(
                        f"run {redact(self.uri)}: no column {', '.join(missing)}; expected some "
                        f"of {', '.join(found)}"
                    )
                part = read_part(run, shard, wanted, retries.STEADY)
                tables.append(part.select(wanted).replace_schema_metadata(None))
        except OSError as error:
            raise self._unread(error) from error
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})

    def images(self) -> Iterator[tuple[str, Image.Image]]:
        """The id and the image of each row that is done, one after the other.

        Raises:
            RunFolderError: a part is damaged.
            JobError: an image cannot be read.
        """
        table = self.table(["id", "status", "image"])
        for row_id, status, name in zip(*(c.to_pylist() for c in table.columns), strict=True):
            if status == DONE:
                yield row_id, self._image(name)

    def report(self, beside: str | os.PathLike[str] | None = None) -> str:
        """Writes the HTML report anew; its path or URL.

        Args:
            beside: the folder of another run, whose image of each row is shown, too.

        Raises:
            RunFolderError: the folder holds no run, or `beside` none with any of the rows shown.
            SettingsError: `beside` is the run itself.
            StorageError: the folder cannot be read, or the page not be written.
        """
        from dstc.report import write_report

        return write_report(self.uri, beside=beside)

    def _image(self, name: str) -> Image.Image:
        from PIL import Image

        try:
            image = Image.open(io.BytesIO(read_stored(urls.inside(self.uri, name))))
            image.load()
        except OSError as error:
            raise JobError(
                f"{shown(name)} cannot be read: {describe(error)}; `dstc verify --repair`, then "
                "the same run, make it again"
            ) from error
        return image

    def _unread(self, error: OSError) -> JobError:
        return JobError(f"run {redact(self.uri)}: storage does not answer: {describe(error)}")


def open_run(output: str | os.PathLike[str]) -> Run:
    """A run folder that is there already, finished or not.

    Args:
        output: the run folder; a local path or any fsspec URL.

    Raises:
        RunFolderError: the folder holds no run.
        StorageError: a URL with credentials inside.
        JobError: storage does not answer.

    Example:
        print(dstc.open_run("output").status.done)
    """
    urls.refuse_credentials(os.fspath(output), "output")
    run = Run(urls.folder(os.fspath(output)))
    assert run.status  # refuses what is no run
    return run
