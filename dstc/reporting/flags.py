"""Flagged rows: the column `flagged` of results, where a run has one.

It holds a short text, "structure" or "range, structure": the flags of the row, null for none.
"""

from __future__ import annotations

import pyarrow as pa

FLAGGED = "flagged"


def has_flags(schema: pa.Schema) -> bool:
    """Whether results of this schema tell of flags; a column of another type is the user's own."""
    if FLAGGED not in schema.names:
        return False
    kind = schema.field(FLAGGED).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def flags_of(value: object) -> list[str]:
    """The flags of one row, each once."""
    if not isinstance(value, str):
        return []
    return list(dict.fromkeys(flag for part in value.split(",") if (flag := part.strip())))
