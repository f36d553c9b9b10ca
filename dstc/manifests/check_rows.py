"""Checks each row without opening an image: ids, targets, texts, seeds, words beyond CLIP.

The checks are those of the job itself (`worker/row.py`), over the known columns alone: a million
rows take some 40 s of a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa

from dstc.manifests.findings import Findings
from dstc.store.cells import read_records
from dstc.store.manifest import TEXT_COLUMNS, Manifest, Shard
from dstc.text import shortened, visible
from dstc.worker.read_shards import read_shards
from dstc.worker.row import Rejected, Row, check_row

_PIECE = 4096
# Of CLIP's 77 tokens; its start and its end take two.
_TOKENS = 75


def check_rows(manifest: Manifest, findings: Findings) -> Iterator[Row]:
    """The rows that pass, in order; those that do not, and prompts that are too long, are findings.

    Args:
        manifest: opened. findings: to add to.
    """
    duplicates = manifest.duplicates()
    wanted = {*TEXT_COLUMNS, "seed"}
    schema = pa.schema([column for column in manifest.schema if column.name in wanted])
    for file in manifest.files:
        rows = min(file.rows, manifest.rows - file.first_row)
        if rows <= 0:
            break
        pieces = [
            Shard(number, file, start, min(start + _PIECE, rows))
            for number, start in enumerate(range(0, rows, _PIECE))
        ]
        for piece, table in read_shards(pieces, schema):
            first = piece.first_row
            repeated = dict(duplicates.within(first, first + piece.rows))
            for place, record in enumerate(read_records(table)):
                number = first + place
                try:
                    row = check_row(record, number, 0, repeated.get(number))
                except Rejected as error:
                    findings.add(error.reason, str(error))
                    continue
                _check_prompts(row, number, findings)
                yield row


def _check_prompts(row: Row, number: int, findings: Findings) -> None:
    for column, text in (("prompt", row.prompt), ("source_prompt", row.source_prompt)):
        if text and (lost := lost_words(text)):
            findings.add(
                "prompt_cut",
                f"manifest row {number} ({row.id!r}): {column}: CLIP reads its first {_TOKENS} "
                f"tokens, and not: {shortened(visible(lost), 200)}",
                is_fault=False,
            )


@lru_cache(maxsize=4096)
def lost_words(text: str) -> str:
    """The words at the end of a text that CLIP does not read; empty where it reads all.

    Args:
        text: at most 4,096 characters.
    """
    # A token is at least one byte, and the tokenizer takes seconds to load.
    if len(text.encode()) <= _TOKENS:
        return ""
    from dstc_engine.token_count import count_tokens

    if count_tokens(text) <= _TOKENS:
        return ""
    words = text.split()
    low, high = 0, len(words)  # words that surely fit, and those that surely do not
    while high - low > 1:
        middle = (low + high) // 2
        if count_tokens(" ".join(words[:middle])) <= _TOKENS:
            low = middle
        else:
            high = middle
    return " ".join(words[low:])
