"""The images of a run as items of a data set, each with what its row says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dstc.errors import JobError, SettingsError
from dstc.exporting.finished_run import FinishedRun
from dstc.store.cells import BadCell, is_blank, read_records
from dstc.worker.row import check_id

WHOLE = "train"
"""The split of a run that is not split."""
_SPLIT = re.compile(r"\w+(\.\w+)*")
# Images that are read at once, and those that wait in memory.
_READERS, _AHEAD = 8, 32


@dataclass(frozen=True)
class Selection:
    """Which images of a run become items, and by what they are sorted.

    Attributes:
        label_column, split_column: of the results; None for none.
        skip_flagged: leave out rows with a flag. pairs: contents, too.
    """

    label_column: str | None = None
    split_column: str | None = None
    skip_flagged: bool = False
    pairs: bool = False


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        key: the row's id, and "@k" after it for its further image k.
        row: of the results; further images have the columns of the first but for the seed.
        label: as text, or of each object of the row. split: its name.
        ending: of the image's file. image: its bytes.
        content: bytes of a PNG that lies on the image, where pairs are asked for.
        mask: bytes of a PNG of labels that lie on the image, where the row has them.
    """

    key: str
    row: Mapping[str, Any]
    label: str | list[str] | None
    split: str
    ending: str
    image: bytes
    content: bytes | None = None
    mask: bytes | None = None


@dataclass
class Items:
    """The items of a run, in the order of its rows.

    Attributes:
        run: whose. selection: which.
        left_out: how many rows are no items, by reason; complete when all items were taken.
    """

    run: FinishedRun
    selection: Selection
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.run.require(self.selection.label_column, "--label-column")
        self.run.require(self.selection.split_column, "--split-column")

    def __iter__(self) -> Iterator[Item]:
        """Reads the images as they are asked for, some ahead."""
        self.left_out.clear()
        found = self._found()
        with ThreadPoolExecutor(_READERS) as pool:
            while some := list(islice(found, _AHEAD)):
                yield from pool.map(self._read, some)

    def classes(self) -> list[str]:
        """All labels, sorted; whole numbers by their size."""
        column = self.selection.label_column
        if column is None:
            return []
        found: set[str] = set()
        for table in self.run.done([column]):
            for row in read_records(table, [column]):
                label = label_of(row.get(column))
                found |= {label} if isinstance(label, str) else set(label or ())
        is_count = all(re.fullmatch(r"-?\d+", label) for label in found)
        return sorted(found, key=int) if is_count else sorted(found)

    def _found(self) -> Iterator[tuple[dict[str, Any], dict[str, Any], str, Any]]:
        """(row, one of its images, split, label) of each image."""
        selection = self.selection
        for table in self.run.done():
            for row in read_records(table):
                if fault := check_id(str(row["id"])):  # results may come from anywhere
                    raise JobError(f"results: {fault}")
                label = split = None
                if selection.label_column is not None:
                    label = label_of(row.get(selection.label_column))
                    if label is None:
                        self.left_out["without a label"] += 1
                        continue
                if selection.split_column is not None:
                    split = label_of(row.get(selection.split_column))
                    if split is None:
                        self.left_out["without a split"] += 1
                        continue
                if selection.skip_flagged and row.get("flagged"):
                    self.left_out["flagged"] += 1
                    continue
                for image in (row, *(row.get("samples") or ())):
                    yield row, image, _split_name(split), label
        counts = self.run.summary.values
        for status in ("rejected", "failed"):
            if counts.get(status):
                self.left_out[status] = int(counts[status])

    def _read(self, found: tuple[dict[str, Any], dict[str, Any], str, Any]) -> Item:
        row, image, split, label = found
        number = image.get("sample")
        mask = row.get("result_mask")
        return Item(
            key=f"{row['id']}@{number}" if number else str(row["id"]),
            row={**row, "seed": image["seed"]},
            label=label,
            split=split,
            ending=self.run.ending(str(image["image"])),
            image=self.run.image(image["image"], image["image_sha256"]),
            content=self.run.content(row) if self.selection.pairs else None,
            mask=self.run.image(mask, row["result_mask_sha256"]) if mask else None,
        )


def label_of(value: Any) -> str | list[str] | None:
    """A cell as a label, or as those of objects; None for one that says nothing.

    Example:
        >>> label_of("cat"), label_of(3), label_of(["cat", "dog"]), label_of(" ")
        ('cat', '3', ['cat', 'dog'], None)
    """
    if isinstance(value, (list, tuple)):
        return [text for entry in value if isinstance(text := label_of(entry), str)]
    if value is None or isinstance(value, (BadCell, dict)):
        return None
    text = value if isinstance(value, str) else str(value)
    return None if is_blank(text) else text


def _split_name(split: Any) -> str:
    if split is None:
        return WHOLE
    if not isinstance(split, str) or not _SPLIT.fullmatch(split):
        raise SettingsError(
            f"--split-column: found {split!r}; expected names of letters, digits, '_' and '.'"
        )
    return split
