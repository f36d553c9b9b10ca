"""Images of a shard in one container, written whole when the shard ends.

While the shard runs, its images are in memory. What is kept every half minute for the case that the
process dies goes to `stats/images/`, where no reader of a data set looks. At the end all images of
the shard, those kept from earlier attempts too, are one container in `images/`, whose name is made
of its bytes: an attempt that makes the same images writes the same file again, another one writes
another, and none can overwrite what a part names. Once the new part is written, the containers that
the old one named are removed (`write_results.py`).

So there is one container for each shard, with each of its rows once, and not one for each attempt:
who reads `images/*.tar` without the results finds no row twice.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from dstc.store import retries, storage, urls
from dstc.store.byte_ranges import ByteRange, byte_range, file_of, read_stored
from dstc.store.containers import Member, Span, make_container, tar_of
from dstc.store.results import DONE, Outcome
from dstc.store.run_folder import RunFolder, container_name, is_container
from dstc.store.stored_names import named_images, with_names
from dstc.text import describe
from dstc.worker.earlier_rows import EarlierRows

log = logging.getLogger(__name__)

# Kept images that are read at once.
_READERS = 8
# Reasons of rows whose id is that of another row, perhaps of a shard at work, or none at all.
_OF_OTHERS = ("duplicate_id", "bad_id")


class ContainerStore:
    """One container for each shard; safe to call from several threads.

    Args:
        run: whose folder. store: "webdataset" or "parquet".
        has_masks: images of the run may have labels in an image of their own.
    """

    def __init__(self, run: RunFolder, store: str, has_masks: bool) -> None:
        self._run, self._store, self._has_masks = run, store, has_masks
        self._lock = threading.Lock()
        # By row, then by name: an id is one row of a run.
        self._held: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        # Names of images that are in storage for the case that this process dies.
        self._saved: dict[str, str] = {}
        self._old: defaultdict[int, set[str]] = defaultdict(set)

    def put(self, row_id: str, name: str, data: bytes) -> None:
        """Holds a file until its shard ends."""
        with self._lock:
            self._held[row_id][name] = data

    def hold(self, shard: int, rows: pa.Table, before: EarlierRows) -> EarlierRows:
        """Reads the images of kept rows; a row whose images are gone or changed is kept no longer.

        Args:
            rows: of the manifest, all of the shard.

        Raises:
            OSError: storage does not answer.
        """
        ids = rows.column("id")
        kept = [(place, list(named_images(row))) for place, row in _kept_rows(before)]
        flagged = [(place, list(_images_of(row))) for place, row in before.flagged.items()]
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda item: self._read(item[1]), [*kept, *flagged]))
        lost = set()
        for (place, images), files in zip([*kept, *flagged], found, strict=True):
            self._old[shard] |= set(filter(is_container, (file_of(name) for name, _ in images)))
            if files is None:
                lost.add(place)
            elif files:
                with self._lock:
                    self._held[ids[place].as_py()].update(files)
        if not lost:
            return before
        log.warning("shard %d: images of %d rows are gone; they run again", shard, len(lost))
        stay = [row for row, place in enumerate(before.places) if place not in lost]
        return replace(
            before,
            kept=before.kept.take(pa.array(stay, pa.int64())),
            places=[before.places[row] for row in stay],
            flagged={place: row for place, row in before.flagged.items() if place not in lost},
        )

    def so_far(self, shard: int, outcomes: pa.Table) -> pa.Table:
        """Outcomes of a shard at work; images that are only in memory are written.

        Raises:
            LookupError: the shard has just ended. OSError: storage does not answer.
        """
        names = [name for name, _ in _all_images(outcomes) if byte_range(name) is None]
        with self._lock:
            held = {name: data for files in self._held.values() for name, data in files.items()}
            new = {name: held[name] for name in names if name not in self._saved}
        if new:
            data, spans = tar_of((name, data) for name, data in new.items())
            file = f"stats/{container_name(shard, data, 'webdataset')}"
            storage.write_bytes(urls.join(self._run.uri, file), data)
            with self._lock:
                self._old[shard].add(file)
                for name, span in zip(new, spans, strict=True):
                    self._saved[name] = _reference(file, span)
        return with_names(outcomes, self._saved)

    def finish(self, shard: int, results: pa.Table) -> pa.Table:
        """Writes the container of a shard, and forgets its images.

        Args:
            results: all of the shard, in order.

        Raises:
            OutputError: storage takes no results any more.
        """
        status = results.column("status").to_pylist()
        places = [place for place, found in enumerate(status) if found == DONE]
        ids = {place: results.column("id")[place].as_py() for place in places}
        with self._lock:
            held = {row_id: self._held.get(row_id, {}) for row_id in ids.values()}
        members, names = list[Member](), list[tuple[str, str | None]]()
        for place in places:
            for member, image, mask in self._members(place, ids[place], results, held[ids[place]]):
                members.append(member)
                names.append((image, mask))
        named = self._write(shard, members, names, results) if members else {}
        with self._lock:
            self._forget(results)
            self._old[shard] -= {file_of(name) for name in named.values()}
        return with_names(results, named)

    def replaced(self, shard: int) -> Sequence[str]:
        """Containers that the shard's new part does not name."""
        with self._lock:
            return sorted(self._old.pop(shard, ()))

    # -- the parts of it ---------------------------------------------------------------------------

    def _read(self, images: Sequence[tuple[str, str]]) -> dict[str, bytes] | None:
        """The images by their names; None where one is not as it was written."""
        files = {}
        for name, sha256 in images:
            try:
                data = read_stored(urls.inside(self._run.uri, name), retries.STEADY)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                log.warning("%s: %s", name, describe(error))
                return None
            if hashlib.sha256(data).hexdigest() != sha256:
                log.warning("%s: not as it was written", name)
                return None
            files[name] = data
        return files

    def _members(
        self, place: int, row_id: str, results: pa.Table, held: Mapping[str, bytes]
    ) -> Iterator[tuple[Member, str, str | None]]:
        """Each image of a row that is done, its name so far, and that of its mask."""
        columns = ("image", "seed", "result_mask", "samples")
        row = {name: results.column(name)[place].as_py() for name in columns}
        mask = row["result_mask"]
        for image in (row, *(row["samples"] or ())):
            number = image.get("sample")
            member = Member(
                key=f"{row_id}@{number}" if number else row_id,
                place=place,
                ending=self._run.ending,
                image=held[image["image"]],
                seed=image["seed"],
                mask=held[mask] if mask else None,
            )
            yield member, image["image"], mask

    def _write(
        self,
        shard: int,
        members: Sequence[Member],
        names: Sequence[tuple[str, str | None]],
        results: pa.Table,
    ) -> dict[str, str]:
        """Writes a container; by the names of images so far, those that they have in it."""
        made = make_container(self._store, members, results, self._has_masks)
        file = container_name(shard, made.data, self._store)
        uri = urls.join(self._run.uri, file)
        with storage.writing_output(uri):
            storage.write_bytes(uri, made.data, retries.STEADY)
        found: dict[str, str] = {}
        for (image, mask), at, mask_at in zip(names, made.images, made.masks, strict=True):
            found[image] = _reference(file, at)
            if mask is not None and mask_at is not None:
                found.setdefault(mask, _reference(file, mask_at))
        return found

    def _forget(self, results: pa.Table) -> None:
        """Images of a shard's rows, also of those that failed after one of theirs was made."""
        ids = results.column("id")
        for place, reason in enumerate(results.column("reason").to_pylist()):
            if reason in _OF_OTHERS:
                continue
            for name in self._held.pop(ids[place].as_py(), {}):
                self._saved.pop(name, None)


def _kept_rows(before: EarlierRows) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from zip(before.places, _rows_of(before.kept), strict=True)


def _rows_of(outcomes: pa.Table) -> list[dict[str, Any]]:
    names = ("status", "image", "image_sha256", "samples", "result_mask", "result_mask_sha256")
    rows: list[dict[str, Any]] = outcomes.select(names).to_pylist()
    return rows


def _all_images(outcomes: pa.Table) -> Iterator[tuple[str, str]]:
    for row in _rows_of(outcomes):
        yield from named_images(row)


def _images_of(outcome: Outcome) -> Iterator[tuple[str, str]]:
    samples = [vars(sample) for sample in outcome.samples or ()]
    yield from named_images({**vars(outcome), "samples": samples})


def _reference(file: str, span: Span) -> str:
    start, size = span
    return str(ByteRange(file, start, start + size))
