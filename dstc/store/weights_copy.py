"""Copies large files from storage to this node, a piece at a time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dstc.errors import JobError
from dstc.store import retries, storage
from dstc.text import describe
from dstc_engine.durable import move_into_place
from dstc_engine.errors import WeightsError
from dstc_engine.weights.folder import writing

_PIECE = 1 << 20


def copy_in(uri: str, path: Path, sha256: str | None = None) -> None:
    """Copies a file; a piece that does not come is asked for again by itself.

    Args:
        uri: of the file.
        path: for the copy, in a folder that exists; whole or not there. One process at a time.
        sha256: that it must have, hex.

    Raises:
        FileNotFoundError: there is none.
        WeightsError: it has another sum, or the copy cannot be written.
        JobError: storage does not answer.
    """
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with answering(uri), storage.open_input(uri, retries.STEADY) as source:
            with writing(path.parent), part.open("wb") as target:
                while piece := _read(uri, source):
                    digest.update(piece)
                    target.write(piece)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise WeightsError(
                f"{uri}: sha256 {digest.hexdigest()}; expected {sha256}, as its description says"
            )
        move_into_place(part, path)
    finally:
        part.unlink(missing_ok=True)  # nodes are near their storage: a broken copy starts anew


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Makes a `JobError` of what storage raises inside, but for a missing file.

    Raises:
        JobError: in place of an OSError.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = describe(error)
        raise JobError(f"weights cannot be read from {uri}: {reason}") from error


def _read(uri: str, source: IO[bytes]) -> bytes:
    with answering(uri):  # here too, since around it an OSError is one of the disk
        return source.read(_PIECE)
