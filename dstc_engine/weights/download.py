"""One file over HTTP: goes on where it broke off, checked, and under its name only when whole.

HTTP is `requests`', the lock `filelock`'s. Not pooch, which starts a broken download anew and locks
nothing; nor huggingface_hub, which goes on and locks, but only for files of its own hub.

    <path>.part       what has come so far
    <path>.part.json  of which file: address, validator (ETag), size, sum that its host names
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from dstc_engine.durable import move_into_place
from dstc_engine.errors import WeightsError
from dstc_engine.weights.folder import check_space, locked, writing
from dstc_engine.weights.page import confirmed_address
from dstc_engine.weights.registry import file_sha256

# Called with the bytes that are there, and those there will be; None where the host does not say.
OnProgress = Callable[[int, int | None], None]

# Attempts one after another that bring nothing new; pauses of 1, 2, 4, 8 s lie between them.
ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# A host that is gone without a word is found out after these.
_TIMEOUTS_S = (10.0, 60.0)
# What a broken connection loses of what had come.
_CHUNK = 1 << 16
_LARGEST_PAGE = 1 << 20

OFFLINE_VARIABLES = ("DSTC_OFFLINE", "HF_HUB_OFFLINE")
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class NotServed(WeightsError):
    """The file did not come from its host; a person may still bring it."""


class _Broken(Exception):
    """The connection broke, or the host is busy: another attempt may go on."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Downloaded:
    """A file that came whole.

    Attributes:
        path: of it. sha256: of its bytes.
        is_published: that sum was known beforehand or named by the host; else it is only noted.
    """

    path: Path
    sha256: str
    is_published: bool


def download(
    url: str,
    path: Path,
    sha256: str | None = None,
    size: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Downloaded:
    """Brings a file, once however many ask for it.

    Broken connections are taken up where they broke, in this call or a later one, as long as the
    host's file is still the same (If-Range) and it serves ranges; else the file comes anew. A page
    that asks to confirm a large download (Google Drive) is confirmed; any other page is refused.

    Args:
        url: http or https.
        path: for the file; its folder is made. One that is there already is only checked.
        sha256: hex, as published; None takes the sum that the host names in `X-Linked-ETag`, as
            Hugging Face does, and where there is none, any sum.
        size: bytes; None or 0 where unknown.
        on_progress: told of bytes as they come.
        on_wait: called once when another process or thread is at the same file.

    Raises:
        NotServed: offline, no answer, a refusal, or a web page instead of the file.
        WeightsError: a file of another sum or size, which is not kept; or a folder that cannot be
            written, where what came so far is kept.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, on_wait):
            if path.is_file():
                found = file_sha256(path)
                if sha256 is not None and found != sha256:
                    raise WeightsError(f"{path}: sha256 {found}; expected {sha256}; remove it")
                return Downloaded(path, found, is_published=sha256 is not None)
            part = _Part(path, url)
            _complete(part, sha256, size or None, on_progress)
            expected = sha256 or part.remote.sha256
            found = file_sha256(part.path)
            if expected is not None and found != expected:
                part.remove()
                raise WeightsError(
                    f"{url}: what came has sha256 {found}; expected {expected}; it was not kept. "
                    "Try again; if it happens again, the host serves another file"
                )
            part.finish()
            return Downloaded(path, found, is_published=expected is not None)


def refuse_offline(what: str) -> None:
    """Checks that the network may be used.

    Raises:
        NotServed: the environment says that it may not.
    """
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off"):
            raise NotServed(f"{what}: not fetched, since {name} is set: no network is used")


# -- the part that is there ------------------------------------------------------------------------


@dataclass(frozen=True)
class _RemoteFile:
    """What the host said of the file whose first bytes are here."""

    url: str
    validator: str | None = None
    size: int | None = None
    sha256: str | None = None


class _Part:
    """What has come so far of one file."""

    def __init__(self, path: Path, url: str) -> None:
        self._target = path
        self.path = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".part.json")
        self.remote = _RemoteFile(url)
        with contextlib.suppress(OSError, ValueError, TypeError):
            remote = _RemoteFile(**json.loads(self._note.read_text()))
            if remote.url == url:
                self.remote = remote

    @property
    def length(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def is_whole(self) -> bool:
        """All bytes are here, as far as the host told."""
        return self.remote.size is not None and self.length == self.remote.size

    def start(self, remote: _RemoteFile) -> None:
        """Begins anew, with a file of which the host says this."""
        self.path.write_bytes(b"")
        self._note.write_text(json.dumps(asdict(remote)))
        self.remote = remote

    def remove(self) -> None:
        """Forgets it."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.remote = _RemoteFile(self.remote.url)

    def finish(self) -> None:
        """Gives the file its name."""
        move_into_place(self.path, self._target)
        self._note.unlink(missing_ok=True)


# -- bringing the rest -----------------------------------------------------------------------------


def _complete(part: _Part, sha256: str | None, size: int | None, on_progress: OnProgress) -> None:
    """Brings what is missing, through as many connections as it takes."""
    url = part.remote.url
    fruitless, furthest = 0, 0
    with requests.Session() as session:
        # A part without a validator may be one of an older file: only a known sum would tell.
        if not (part.remote.validator or part.remote.sha256 or sha256):
            part.remove()
        while not part.is_whole:
            refuse_offline(url)
            furthest = max(furthest, part.length)
            try:
                return _append(session, part, size, on_progress)
            except _Broken as error:
                fruitless = 0 if part.length > furthest else fruitless + 1
                if fruitless >= ATTEMPTS:
                    raise NotServed(
                        f"{url}: does not come ({error}); {fruitless} attempts brought nothing "
                        f"new. The {part.length:,} bytes that came are kept: try again later"
                    ) from error
                pause = min(FIRST_PAUSE_S * 2 ** max(fruitless - 1, 0), LONGEST_PAUSE_S)
                time.sleep(max(random.uniform(0.5, 1.0) * pause, error.wait_s))


def _append(
    session: requests.Session, part: _Part, size: int | None, on_progress: OnProgress
) -> None:
    """One connection: what it brings is appended to the part."""
    url, offset = part.remote.url, part.length
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges count the file's own bytes
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if part.remote.validator:
            headers["If-Range"] = part.remote.validator
    with _asked(session, url, headers) as answer:
        if answer.status_code == 416:
            if answer.headers.get("Content-Range") == f"bytes */{offset}" and part.remote.validator:
                return  # all of it is here, only its size was not known
            part.remove()  # shorter than what is here: another file by now
            raise _Broken("the host has another file now")
        _check_status(url, answer)
        goes_on = offset > 0 and answer.status_code == 206
        remote = _remote_file(url, answer, offset if goes_on else 0)
        if goes_on and not _is_same(part.remote, remote, answer, offset):
            part.remove()
            raise _Broken("the host has another file now")
        if size and remote.size is not None and remote.size != size:
            part.remove()
            raise WeightsError(f"{url}: the host has {remote.size:,} bytes; expected {size:,}")
        if not goes_on:
            part.start(remote)
            offset = 0
        if remote.size is not None:
            check_space(part.path.parent, remote.size - offset, f"the rest of {url}")
        with part.path.open("ab") as file:
            on_progress(offset, remote.size)
            for chunk in _chunks(answer):
                if offset == 0 and _looks_like_a_page(chunk):
                    raise _a_page(url)
                file.write(chunk)
                offset += len(chunk)
                on_progress(offset, remote.size)
    if remote.size is not None and offset != remote.size:
        raise _Broken(f"{offset:,} of {remote.size:,} bytes came")


@contextlib.contextmanager
def _asked(
    session: requests.Session, url: str, headers: dict[str, str]
) -> Iterator[requests.Response]:
    """The host's answer, past a page that only wants a confirmation."""
    address = url
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            try:
                answer = session.get(address, headers=headers, stream=True, timeout=_TIMEOUTS_S)
            except (
                requests.exceptions.InvalidURL,
                requests.exceptions.InvalidSchema,
                requests.exceptions.MissingSchema,
                requests.exceptions.TooManyRedirects,
            ) as error:
                raise NotServed(f"{url}: cannot be asked for: {error}") from error
            except requests.RequestException as error:
                raise _Broken(f"{type(error).__name__}: {error}") from error
            stack.enter_context(answer)
            if not (answer.ok and "text/html" in answer.headers.get("Content-Type", "").lower()):
                yield answer
                return
            page = b"".join(_chunks(answer, at_most=_LARGEST_PAGE)).decode(errors="replace")
            confirmed = confirmed_address(page, answer.url)
        if confirmed is None:
            break
        address = confirmed
    raise _a_page(url)


def _chunks(answer: requests.Response, at_most: int | None = None) -> Iterator[bytes]:
    came = 0
    try:
        for chunk in answer.iter_content(_CHUNK):
            yield chunk
            came += len(chunk)
            if at_most is not None and came >= at_most:
                return
    except requests.RequestException as error:
        raise _Broken(f"{type(error).__name__}: {error}") from error


def _check_status(url: str, answer: requests.Response) -> None:
    status = answer.status_code
    if status in (200, 206):
        return
    message = f"{status} {answer.reason or ''}".strip()
    if status in (408, 425, 429) or status >= 500:
        wait = answer.headers.get("Retry-After", "")
        raise _Broken(message, min(float(wait), LONGEST_PAUSE_S) if wait.isdigit() else 0.0)
    raise NotServed(f"{url}: the host answers {message}")


def _remote_file(url: str, answer: requests.Response, offset: int) -> _RemoteFile:
    """What an answer says of the file as a whole; it begins at byte `offset`."""
    headers = answer.headers
    ranged = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    size = None
    if ranged and ranged[2] != "*":
        size = int(ranged[2])
    elif headers.get("Content-Length", "").isdigit():
        size = offset + int(headers["Content-Length"])
    # A weak ETag promises the same meaning, not the same bytes.
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    # Hugging Face names the sum in the redirect to where its bytes lie.
    named = (each.headers.get("X-Linked-ETag", "") for each in [*answer.history, answer])
    sums = [found[1] for text in named if (found := _SHA256.fullmatch(text))]
    return _RemoteFile(url, validator, size, sums[0] if sums else None)


def _is_same(before: _RemoteFile, now: _RemoteFile, answer: requests.Response, offset: int) -> bool:
    """Whether the rest that a 206 brings belongs to the part; not all hosts honour If-Range."""
    ranged = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return (
        ranged is not None
        and int(ranged[1]) == offset
        and now.validator in (None, before.validator)
        and (now.size == before.size or None in (now.size, before.size))
    )


def _looks_like_a_page(start: bytes) -> bool:
    return start[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _a_page(url: str) -> NotServed:
    return NotServed(
        f"{url}: the host sends a web page instead of the file (a quota, a login or a notice); "
        "nothing of it was kept"
    )
