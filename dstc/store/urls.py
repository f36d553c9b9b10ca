"""Paths and URLs of files and folders, as texts; nothing is opened here."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from dstc.errors import StorageError
from dstc.text import redact

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(::|://)")


def refuse_credentials(url: str, what: str) -> None:
    """Checks a URL that will be saved with the run.

    Raises:
        StorageError: it carries a user, a password or a query, which may be a signature.
    """
    if redact(url) != url:
        raise StorageError(
            f"{what} {redact(url)}: the URL carries credentials or a query, and it is saved with "
            "the run; give credentials through the environment (AWS_ACCESS_KEY_ID, ...)"
        )


def is_url(uri: str) -> bool:
    """Whether the text names its protocol, as in `s3://bucket/key`."""
    return _URL.match(uri) is not None


def join(folder: str, *names: str) -> str:
    """A path inside a folder; folders are local paths or URLs."""
    return posixpath.join(folder, *names)


def parent(uri: str) -> str:
    """The folder that holds a file; "." for a bare local name."""
    return posixpath.dirname(uri) or "."


def resolve(uri: str, folder: str) -> str:
    """A URI of a manifest as one that can be opened: relative ones start at `folder`."""
    if is_url(uri) or uri.startswith("/"):
        return uri
    joined = join(folder, uri)
    scheme, mark, path = joined.partition("://")
    if mark and ".." in path.split("/"):
        # Object stores have no folders to climb out of: S3 refuses such a key.
        bucket, _, key = path.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath('/' + key)}"
    return joined


def absolute(uri: str) -> str:
    """Local paths made absolute, since workers run in other folders; URLs as they are."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    return uri if is_url(uri) else str(Path(uri).expanduser().absolute())


def folder(uri: str) -> str:
    """A folder as `absolute` has it, and without a slash at its end."""
    return absolute(uri).rstrip("/") or "/"
