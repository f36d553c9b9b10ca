"""Columns of labels that are carried over: `--boxes COLUMN:FORM` and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dstc.errors import SettingsError
from dstc.store.manifest import TEXT_COLUMNS

FORMS = {
    "boxes": ("coco", "pascal"),
    "keypoints": ("coco", "points"),
    "masks": ("image", "coco"),
}
"""By option, what its cells may hold; the first is what they hold unless told."""


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels.

    Attributes:
        kind: "boxes", "keypoints" or "masks". path: name of the column, and of fields inside it.
        form: one of `FORMS`.
    """

    kind: str
    path: tuple[str, ...]
    form: str

    @property
    def name(self) -> str:
        """As it was given, without the form."""
        return ".".join(self.path)


def label_column(kind: str, text: str) -> LabelColumn:
    """What an option says.

    Raises:
        SettingsError: an unknown form, or no name.

    Example:
        >>> label_column("boxes", "objects.bbox:pascal")
        LabelColumn(kind='boxes', path=('objects', 'bbox'), form='pascal')
    """
    name, colon, form = text.rpartition(":")
    if not colon:
        name, form = text, FORMS[kind][0]
    path = tuple(name.split("."))
    if form not in FORMS[kind] or not all(path):
        forms = "|".join(FORMS[kind])
        raise SettingsError(f"--{kind}: found {text!r}; expected COLUMN or COLUMN:{forms}")
    return LabelColumn(kind, path, form)


def check_label_columns(columns: Sequence[LabelColumn], schema: pa.Schema) -> None:
    """Refuses columns that the manifest does not have, or that cannot hold such labels.

    Raises:
        SettingsError: of the first one.
    """
    known = {*TEXT_COLUMNS, "seed"}
    others = [name for name in schema.names if name not in known]
    for column in columns:
        if column.path[0] not in others:
            raise SettingsError(
                f"--{column.kind} {column.name}: the manifest has no column of labels "
                f"{column.path[0]!r}; expected one of {', '.join(others) or 'none (it has none)'}"
            )
        found = schema.field(column.path[0]).type
        if len(column.path) == 1 and not _may_hold(column, found):
            expected = "a column of lists, or of JSON as text"
            if column.form == "image":
                expected = f"one of URIs, or for outlines --masks {column.name}:coco"
            raise SettingsError(
                f"--{column.kind} {column.name}: the column holds {found}; expected {expected}"
            )


def _may_hold(column: LabelColumn, found: pa.DataType) -> bool:
    """Text is a URI, or JSON of lists; a column that is all null holds nothing."""
    kinds = pa.types
    if kinds.is_dictionary(found):
        found = found.value_type
    is_text = kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_null(found)
    is_list = kinds.is_nested(found) and not kinds.is_struct(found)
    return is_text or (is_list and column.form != "image")
