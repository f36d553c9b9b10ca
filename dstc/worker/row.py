"""One row of a manifest: its checks, its seed, and its images brought in.

A row that is itself at fault raises `Rejected`; a row that may work another time raises `Failed`.
Reasons are short and countable; the error text tells the whole story, without secrets of URLs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from dstc.errors import StorageError
from dstc.store import retries, urls
from dstc.store.cells import BadCell, is_blank
from dstc.store.input_policy import ASKED_FOR, MAX_URI, InputTooLarge, check_uri, shown_uri
from dstc.store.inputs import read_input
from dstc.store.manifest import TEXT_COLUMNS
from dstc.store.spellings import unseen_ends
from dstc.text import describe, redact, shortened, visible
from dstc.worker.image_cache import ImageCache
from dstc_engine.errors import ImageError, MaskError, RequestError
from dstc_engine.request import TranslationRequest

if TYPE_CHECKING:
    from dstc.worker.label_values import Labels
    from dstc_engine.decoding.frame import Frame
    from dstc_engine.decoding.read import Decoded

Found = TypeVar("Found")

_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
MAX_ID = 512
# File systems allow 255 bytes for a name; the ending and a margin are ours.
MAX_SEGMENT = 240
# Characters of a bad cell that its error shows.
_SHOWN = 100
# CLIP reads about 300 characters of a prompt; its tokenizer takes time by the square of a word's
# length: 0.6 s for one of 4,096 characters, 10 s for one of 16,000.
MAX_PROMPT = 4096
_COUNTED = 1024


class Rejected(Exception):
    """The row itself is at fault; trying again cannot help."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(error)
        self.reason = reason


class Failed(Exception):
    """The row may be fine; another run may do it."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(error)
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """A row that passed the checks which need no image.

    Attributes:
        id: safe as a file name.
        content, style, mask: URIs as the manifest gives them.
        seed: given or derived, 0 .. 2**63 - 1.
        note: what was assumed while its images were read; None before, and where nothing was.
        labels: of the content, to be carried over. frame: how the content lies to its file; None
            before it was read. origin: its images, where the result is put back into the content.
    """

    id: str
    content: str
    style: str | None
    prompt: str | None
    source_prompt: str | None
    mask: str | None
    seed: int
    note: str | None = None
    labels: Labels | None = None
    frame: Frame | None = None
    origin: TranslationRequest | None = None


def derive_seed(run_seed: int, row_id: str) -> int:
    """The seed of a row that brings none: the same for the same run seed and id, everywhere."""
    digest = hashlib.sha256(f"{run_seed}:{row_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_sample_seed(seed: int, sample: int) -> int:
    """The seed of a row's further image `sample`, 1 or more; image 0 has the row's own seed."""
    digest = hashlib.sha256(f"sample:{sample}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_retry_seed(seed: int, retry: int) -> int:
    """The seed of a flagged row's other try `retry`, 1 or more, from the one it began with."""
    digest = hashlib.sha256(f"retry:{retry}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_id(row_id: str | None) -> str | None:
    """What is wrong with an id, or None."""
    expected = "expected letters, digits, '.', '_', '-', and '/' between folders"
    if not row_id:
        return f"id is {row_id!r}; {expected}"
    shown = shortened(repr(row_id), 200)
    if len(row_id) > MAX_ID:
        return f"id of {len(row_id)} characters; expected at most {MAX_ID}"
    for segment in row_id.split("/"):
        if segment in ("", ".", "..") or not _SEGMENT.fullmatch(segment):
            return f"id is {shown}; {expected}, and no part that is empty, '.' or '..'"
        if len(segment) > MAX_SEGMENT:
            return f"id has a part of {len(segment)} characters; expected at most {MAX_SEGMENT}"
    return None


def check_row(
    values: Mapping[str, object],
    number: int,
    run_seed: int,
    duplicate_of: int | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> Row:
    """Checks a row without opening anything.

    Args:
        values: the known columns, as `read_records` gives them; those that the manifest does not
            have may be missing. A blank text is the same as none.
        number: of the row in the manifest, counted from 0; names it in errors.
        run_seed: seeds rows that bring none.
        duplicate_of: number of the earlier row that has the same id.
        count_tokens: tells the length of a prompt that is too long in tokens, too.

    Raises:
        Rejected: with reason bad_id, duplicate_id, bad_text, no_content, no_target, bad_uri,
            long_prompt or bad_seed.
    """
    text = {
        name: value if isinstance(value := values.get(name), str) and not is_blank(value) else None
        for name in TEXT_COLUMNS
    }
    bad = {name: value for name, value in values.items() if isinstance(value, BadCell)}
    place = f"manifest row {number}"
    if cell := bad.pop("id", None):
        raise Rejected("bad_id", f"{place}: {_fault_of('id', cell)}")
    if fault := check_id(text["id"]):
        raise Rejected("bad_id", f"{place}: {fault}")
    row_id = text["id"]
    assert row_id is not None
    place += f" ({shortened(repr(row_id), 300)})"
    if duplicate_of is not None:
        raise Rejected(
            "duplicate_id",
            f"{place}: row {duplicate_of} has this id already, and the first one counts; "
            "expected unique ids",
        )
    for name, cell in bad.items():
        raise Rejected("bad_text", f"{place}: {_fault_of(name, cell)}")
    if not text["content"]:
        raise Rejected("no_content", f"{place}: content is empty; expected the URI of an image")
    if not text["style"] and not text["prompt"]:
        raise Rejected(
            "no_target", f"{place}: style and prompt are both empty; expected one of them, or both"
        )
    _check_lengths(text, place, count_tokens)
    seed = values.get("seed")
    if seed is None:
        seed = derive_seed(run_seed, row_id)
    assert isinstance(seed, int)
    if seed < 0:
        raise Rejected("bad_seed", f"{place}: seed is {seed}; expected 0 .. 2**63 - 1")
    return Row(
        id=row_id,
        content=text["content"],
        style=text["style"],
        prompt=text["prompt"],
        source_prompt=text["source_prompt"],
        mask=text["mask"],
        seed=seed,
    )


def _fault_of(name: str, cell: BadCell) -> str:
    text = cell.text if len(cell.text) <= _SHOWN else f"{cell.text[:_SHOWN]} ..."
    return f"{name} is '{visible(redact(text))}', {cell.problem}; expected text in UTF-8"


def _check_lengths(
    text: Mapping[str, str | None], place: str, count_tokens: Callable[[str], int] | None
) -> None:
    for column in ("content", "style", "mask"):
        if (length := len(text[column] or "")) > MAX_URI:
            raise Rejected(
                "bad_uri",
                f"{place}: {column} of {length:,} characters; expected a URI of at most "
                f"{MAX_URI:,}",
            )
    for column in ("prompt", "source_prompt"):
        value = text[column] or ""
        if len(value) <= MAX_PROMPT:
            continue
        told = ""
        if count_tokens is not None:
            told = f" (its first {_COUNTED:,} are {count_tokens(value[:_COUNTED]):,} tokens)"
        raise Rejected(
            "long_prompt",
            f"{place}: {column} of {len(value):,} characters{told}; expected at most "
            f"{MAX_PROMPT:,}, of which CLIP reads the first 77 tokens",
        )


def _read_as_one_asked(uri: str) -> bytes:
    """A reader for callers who name the files themselves, on this machine or elsewhere."""
    return read_input(uri, ASKED_FOR)


def load_request(
    row: Row,
    folder: str,
    read: Callable[[str], bytes] = _read_as_one_asked,
    caches: Mapping[str, ImageCache[Decoded]] = MappingProxyType({}),
    keeps_origin: bool = False,
) -> TranslationRequest:
    """Fetches and decodes the images of a row.

    Args:
        row: checked.
        folder: what relative URIs start at.
        read: brings the bytes of a URI.
        caches: for the columns content, style and mask; a column without one is always fetched.
        keeps_origin: the images are needed again when the result is there.

    Raises:
        Rejected: with reason missing_picture, unreadable_picture, bad_mask, too_large, bad_uri or
            bad_request.
        Failed: with reason fetch_error, when storage did not answer, or input_timeout, when an
            image was not read in time.
    """

    def load(column: str, uri: str) -> Decoded:
        def fresh() -> Decoded:
            return _load_image(column, uri, folder, read)

        cache = caches.get(column)
        return cache.get(urls.resolve(uri, folder), fresh) if cache else fresh()

    content = load("content", row.content)
    style = load("style", row.style) if row.style else None
    mask = load("mask", row.mask) if row.mask else None
    notes = [f"content: {note}" for note in content.notes]
    notes += [f"style: {note}" for note in style.notes] if style else []
    try:
        request = TranslationRequest(
            id=row.id,
            content=content.pixels,
            seed=row.seed,
            style=style.pixels if style else None,
            prompt=row.prompt,
            source_prompt=row.source_prompt,
            mask=mask.pixels if mask else None,
            note="note: " + "; ".join(notes) if notes else None,
            frame=content.frame,
        )
        return replace(request, origin=request) if keeps_origin else request
    except RequestError as error:
        raise Rejected("bad_request", str(error)) from error


def _load_image(column: str, uri: str, folder: str, read: Callable[[str], bytes]) -> Decoded:
    # Pillow and Little CMS, which the driver has no use for.
    from dstc_engine.decoding.mask import read_mask
    from dstc_engine.decoding.read import read_image

    decode: Callable[[bytes, str], Decoded] = read_mask if column == "mask" else read_image
    return load_file(column, uri, folder, read, decode)


def load_file(
    column: str,
    uri: str,
    folder: str,
    read: Callable[[str], bytes],
    decode: Callable[[bytes, str], Found],
) -> Found:
    """Fetches and decodes one file that a row names.

    Args:
        column: that names it. decode: of the bytes, and how errors name them.

    Raises:
        Rejected, Failed: as `load_request`.
    """
    shown = f"{column} {shown_uri(uri)}"
    place = urls.resolve(uri, folder)
    try:
        check_uri(uri)
        data = read(place)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Rejected(
            "missing_picture", f"{shown}: there is no such file{unseen_ends(uri)}"
        ) from error
    except InputTooLarge as error:
        raise Rejected("too_large", f"{shown}: {error}") from error
    except (StorageError, ValueError) as error:
        reason = shortened(redact(str(error), uri, place))
        raise Rejected("bad_uri", f"{shown}: {reason}") from error
    except retries.DeadlinePassed as error:
        raise Failed("input_timeout", f"{shown}: {error}") from error
    except Exception as error:  # drivers raise their own types; none may take the shard down
        reason = describe(error, uri, place)
        raise Failed("fetch_error", f"{shown}: cannot be fetched: {reason}") from error
    try:
        return decode(data, shown)
    except MaskError as error:
        raise Rejected("bad_mask", redact(str(error))) from error
    except ImageError as error:
        raise Rejected("unreadable_picture", redact(str(error), uri)) from error
