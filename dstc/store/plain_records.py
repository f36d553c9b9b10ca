"""What a result row says of its image in a data set: which columns, and as JSON holds them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dstc.store.results import RESERVED_COLUMNS

KEPT_RESULTS = (
    *("seed", "flagged", "placement", "result_boxes", "result_keypoints", "result_masks"),
)
"""Columns of results that a data set keeps."""
# A URI may be signed, or name a folder of this machine.
_URIS = ("content", "style", "mask", "manifest_image")


def extra_columns(schema: pa.Schema) -> list[str]:
    """Columns of results that say something of an image, id and label apart."""
    own = [name for name in schema.names if name not in RESERVED_COLUMNS]
    kept = [name for name in KEPT_RESULTS if name in schema.names and name not in own]
    return [name for name in (*own, *kept) if name not in ("id", *_URIS)]


def plain_record(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Cells of a row as JSON holds them; those without a value are left out."""
    found = {name: _plain(row[name]) for name in names if name in row}
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return None if isinstance(value, bytes) else str(value)
