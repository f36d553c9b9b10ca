"""Compares the images of result rows with the sums that the rows hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from dstc.store import retries, urls
from dstc.store.byte_ranges import byte_range, is_stored, read_stored
from dstc.store.faults import CHANGED_IMAGE, MISSING_IMAGE, Fault
from dstc.store.results import DONE
from dstc.store.run_folder import RunFolder, is_container
from dstc.text import describe, shown

COLUMNS = (
    *("id", "status", "image", "image_sha256", "retries", "samples"),
    *("result_mask", "result_mask_sha256"),
)


def count_images(part: pa.Table) -> int:
    """Images that the rows of a part name."""
    rows = _rows_of(part)
    return sum(1 + len(row.get("samples") or ()) for row in rows if row["status"] == DONE)


def check_images(run: RunFolder, part: pa.Table, quick: bool) -> Iterator[tuple[int, Fault]]:
    """(row of the part, fault) of each image that is not as it was written.

    Args:
        part: result rows. quick: only look whether the files are there.

    Raises:
        OSError: storage does not answer.
    """
    for number, row in enumerate(_rows_of(part)):
        if row["status"] != DONE:
            continue
        tries = range(1, (row.get("retries") or 0) + 1)
        own = [run.retry_name(str(row["id"]), retry) for retry in tries]
        names = [run.image_name(str(row["id"])), *own]
        if fault := _fault_of(run, row, names, quick):
            yield number, fault
        if row.get("result_mask") is not None:
            mask = {"image": row["result_mask"], "image_sha256": row["result_mask_sha256"]}
            if fault := _fault_of(run, row | mask, [run.mask_name(str(row["id"]))], quick):
                yield number, fault
        for sample in row.get("samples") or ():
            names = [run.sample_name(str(row["id"]), sample["sample"])]
            if fault := _fault_of(run, {**sample, "id": row["id"]}, names, quick):
                yield number, fault


def _fault_of(
    run: RunFolder, image: Mapping[str, Any], names: list[str], quick: bool
) -> Fault | None:
    name, place = image["image"], f"image of {shown(image['id'])!r}"
    # Results may come from anywhere: no other file is opened.
    if name not in names and not _is_in_container(name):
        return Fault(CHANGED_IMAGE, place, f"found the name {shown(name)!r}; expected {names[0]!r}")
    uri = urls.join(run.uri, name)
    try:
        if quick:
            return None if is_stored(uri) else Fault(MISSING_IMAGE, name, "not found")
        data = read_stored(uri, retries.FETCH)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return Fault(MISSING_IMAGE, name, "not found")
    except PermissionError as error:
        return Fault(MISSING_IMAGE, name, f"cannot be read: {describe(error)}")
    found = hashlib.sha256(data).hexdigest()
    if found == image["image_sha256"]:
        return None
    expected = shown(image["image_sha256"])
    what = f"found sha256 {found[:12]} ({len(data):,} bytes); expected {expected[:12]}"
    return Fault(CHANGED_IMAGE, name, what)


def _is_in_container(name: object) -> bool:
    found = byte_range(name) if isinstance(name, str) else None
    return found is not None and is_container(found.uri)


def _rows_of(part: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = part.select(
        [name for name in COLUMNS if name in part.schema.names]
    ).to_pylist()
    return rows
