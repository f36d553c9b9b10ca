"""Where an actor puts the files of images: one each, or many in a container (`--store`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from dstc.errors import OutputError
from dstc.planning.settings import Settings
from dstc.store import retries, storage, urls
from dstc.store.run_folder import RunFolder
from dstc.text import describe
from dstc.worker.container_store import ContainerStore
from dstc.worker.earlier_rows import EarlierRows
from dstc.worker.row import Failed


class ImageStore(Protocol):
    """Takes files of images while a shard runs, and has them in storage when it ends."""

    def put(self, row_id: str, name: str, data: bytes) -> None:
        """Takes a file of a row under its name in the run folder."""

    def hold(self, shard: int, rows: pa.Table, before: EarlierRows) -> EarlierRows:
        """Of rows kept from earlier attempts, those whose images are still there."""

    def so_far(self, shard: int, outcomes: pa.Table) -> pa.Table:
        """Outcomes of a shard at work, with names of images that outlive this process."""

    def finish(self, shard: int, results: pa.Table) -> pa.Table:
        """The results of a shard, with names of images that are in storage now."""

    def replaced(self, shard: int) -> Sequence[str]:
        """Files of the run folder that nobody needs once the shard's part is written."""


class FileStore:
    """One file for each image, written when it is made.

    Args:
        run: whose folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def put(self, row_id: str, name: str, data: bytes) -> None:
        """Writes a file.

        Raises:
            Failed: this one file cannot be written.
            OutputError: storage takes no results any more.
        """
        uri = urls.join(self._run.uri, name)
        try:
            with storage.writing_output(uri):
                storage.write_bytes(uri, data, retries.STEADY)
        except OutputError as error:
            if not storage.is_about_one_file(error.__cause__):
                raise
            raise Failed("write_error", f"{name}: {describe(error.__cause__)}") from error

    def hold(self, shard: int, rows: pa.Table, before: EarlierRows) -> EarlierRows:
        """All of them: each has files of its own."""
        return before

    def so_far(self, shard: int, outcomes: pa.Table) -> pa.Table:
        """The outcomes as they are."""
        return outcomes

    def finish(self, shard: int, results: pa.Table) -> pa.Table:
        """The results as they are."""
        return results

    def replaced(self, shard: int) -> Sequence[str]:
        """None: no file is ever replaced."""
        return ()


def open_image_store(run: RunFolder, settings: Settings) -> ImageStore:
    """The store that `--store` names."""
    if settings.store == "files":
        return FileStore(run)
    return ContainerStore(run, settings.store, has_masks=settings.masks is not None)
