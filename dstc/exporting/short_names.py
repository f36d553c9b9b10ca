"""Names of files in a tree of splits and classes, without folders that the tree has already."""

from __future__ import annotations

from collections import Counter

from dstc.exporting.items import Item, Items, label_of
from dstc.store.cells import read_records


class ShortNames:
    """Names without the leading folders of an id that repeat its split and label.

    The id of a row that was made of class folders begins with them: below `train/bird/`,
    `train/bird/1` is `1`. Where the short names of two rows meet, or one is the id of another row
    in the same folder, the whole id stays. About 100 bytes a row.

    Example:
        ShortNames(items).of(item) is "1" for the item "train/bird/1" of the label "bird" and,
        with a column of splits, of the split "train".
    """

    def __init__(self, items: Items) -> None:
        self._by_split = items.selection.split_column is not None
        # Of 64 bits: two names that share one keep a folder that was not needed.
        self._claims: Counter[int] = Counter()
        columns = [items.selection.split_column, items.selection.label_column]
        needed = list(dict.fromkeys(["id", *(name for name in columns if name is not None)]))
        for table in items.run.done(needed):
            for row in read_records(table, needed):
                split, label = (label_of(row[name]) if name else None for name in columns)
                if isinstance(label, str) and not isinstance(split, list):
                    row_id = str(row["id"])
                    for name in {row_id, _short(row_id, split, label)}:
                        self._claims[hash((split, label, name))] += 1

    def of(self, item: Item) -> str:
        """The name of an item below its folder, without its ending."""
        split = item.split if self._by_split else None
        row_id = str(item.row["id"])
        name = _short(row_id, split, str(item.label))
        is_free = self._claims[hash((split, item.label, name))] == 1
        return name + item.key.removeprefix(row_id) if is_free else item.key


def _short(row_id: str, split: str | None, label: str) -> str:
    for folder in (split, label):
        if folder is not None:
            row_id = row_id.removeprefix(f"{folder}/")
    return row_id
