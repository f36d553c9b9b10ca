"""Names the manifest rows that were at work when an error left a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def naming_rows(first: int, rows: int, shard: int | None = None) -> Iterator[None]:
    """Adds a note to the innermost cause of an error that leaves the block.

    Ray hands an error on as text, in which notes stand with the exception that they are on.

    Args:
        first: number of the first row in the manifest, counted from 0. rows: how many, 1 or more.
        shard: that they are, if it is one.
    """
    try:
        yield
    except Exception as error:
        which = f"row {first}" if rows == 1 else f"rows {first} to {first + rows - 1}"
        _innermost(error).add_note(
            f"manifest {which}" + ("" if shard is None else f" (shard {shard})")
        )
        raise


def _innermost(error: BaseException) -> BaseException:
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error
