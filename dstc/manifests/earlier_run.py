"""An earlier run as a source: its images become contents, so that looks can be chained."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from dstc.errors import ManifestError
from dstc.manifests.source import Source
from dstc.manifests.table_files import plain
from dstc.store import storage
from dstc.store.results import DONE, RESERVED_COLUMNS, part_columns, read_part
from dstc.store.run_folder import RunFolder
from dstc.text import redact

# Of the manifest that the run was of: what they say of its contents is not so of its images.
_OF_THE_RUN = ("content", "style", "prompt", "source_prompt", "mask", "seed")


def is_run_folder(folder: str) -> bool:
    """Whether it holds a run."""
    return storage.exists(RunFolder(folder).job)


def earlier_run(folder: str) -> Source:
    """The rows that are done, with their image as the content; their ids and labels stay.

    What they were made of is in `earlier_content`, `earlier_style` and so on; results' own columns
    are left out.

    Raises:
        ManifestError: it has no results yet.
    """
    run = RunFolder(folder)
    parts = run.parts()
    if not parts:
        raise ManifestError(f"{redact(folder)}: the run has no results yet")
    notes: list[str] = []

    def read() -> Iterator[pa.Table]:
        others = 0
        for shard in parts:
            names = part_columns(run, shard)
            wanted = [n for n in names if n not in RESERVED_COLUMNS or n in ("status", "image")]
            table = read_part(run, shard, wanted)
            done = table.filter(pc.equal(table.column("status"), DONE))
            others += len(table) - len(done)
            if len(done):
                yield plain(_turned(done))
        if others:
            notes.append(f"{others:,} rows that are not done were left out")

    return Source(folder, "an earlier run", folder, read, None, notes)


def _turned(done: pa.Table) -> pa.Table:
    columns = {"id": done.column("id"), "content": done.column("image")}
    for name in done.schema.names:
        if name in _OF_THE_RUN:
            column = done.column(name)
            # A column that the rows never used says nothing of them.
            columns[f"earlier_{name}"] = column
        elif name not in ("id", "status", "image"):
            columns[name] = done.column(name)
    return pa.table(columns)
