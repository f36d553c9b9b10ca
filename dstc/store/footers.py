"""Footers of Parquet files, by which a file is known to be the one that was planned."""

from __future__ import annotations

import hashlib
from typing import IO

import pyarrow.parquet as pq


def read_footer(raw: IO[bytes]) -> tuple[int, str]:
    """Bytes of a Parquet file, and the sha256 of its footer."""
    size = raw.seek(0, 2)
    raw.seek(size - 8)
    length = int.from_bytes(raw.read(4), "little")
    raw.seek(size - 8 - length)
    return size, hashlib.sha256(raw.read(length)).hexdigest()


def how_it_changed(
    parquet: pq.ParquetFile, raw: IO[bytes], rows: int, size: int, footer_sha256: str
) -> str | None:
    """In which way an open file is not the one that was planned; None when it is.

    Args:
        parquet, raw: the file. rows, size, footer_sha256: of the one that was planned.

    Returns:
        For example "7 rows; expected 8".
    """
    if parquet.metadata.num_rows != rows:
        return f"{parquet.metadata.num_rows:,} rows; expected {rows:,}"
    size_now, sha256_now = read_footer(raw)
    if size_now != size:
        return f"{size_now:,} bytes; expected {size:,}"
    if sha256_now != footer_sha256:
        return f"a footer with sha256 {sha256_now[:12]}; expected {footer_sha256[:12]}"
    return None
