"""Paths and URLs of files and folders, as texts; nothing is opened here."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote

from dstc.errors import StorageError
from dstc.text import parse_url, shortened


def refuse_credentials(url: str, what: str) -> None:
    """Checks a URL that will be saved with the run.

    Raises:
        StorageError: it carries a user, a password or a query, which may be a signature.
    """
    parsed = parse_url(url)
    if parsed is None or (parsed.user is None and parsed.query is None):
        return
    found = "a user or a password" if parsed.user is not None else "a query"
    raise StorageError(
        f"{what} {shortened(str(parsed))}: the URL carries {found}, which may be credentials, and "
        "it is saved with the run; give credentials through the environment "
        "(AWS_ACCESS_KEY_ID, ...)"
    )


def is_url(uri: str) -> bool:
    """Whether the text names its scheme, as in `s3://bucket/key`; `::` is part of a name."""
    return parse_url(uri) is not None


def local_path(uri: str) -> str | None:
    """The path of a local path or a `file://` URL, percent-decoded; None for other URLs.

    Raises:
        StorageError: a `file://` URL of another host.
    """
    url = parse_url(uri)
    if url is None:
        return uri
    if url.scheme != "file":
        return None
    rest = uri[len("file://") :]
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost"):
        raise StorageError(
            f"{shortened(str(url))}: found the host {shortened(host, 100)!r}; expected file:///path"
        )
    return unquote(slash + path)


def join(folder: str, *names: str) -> str:
    """A path inside a folder; folders are local paths or URLs."""
    return posixpath.join(folder, *names)


def parent(uri: str) -> str:
    """The folder that holds a file; "." for a bare local name."""
    return posixpath.dirname(uri) or "."


def inside(folder: str, name: str) -> str:
    """A path inside a folder by a name that somebody else wrote.

    Raises:
        StorageError: it leads out of the folder.
    """
    if not name or is_url(name) or name.startswith("/") or ".." in name.split("/"):
        raise StorageError(f"{shortened(name)!r}: expected a path inside the run folder")
    return join(folder, name)


def resolve(uri: str, folder: str) -> str:
    """A URI of a manifest as one that can be opened: relative ones start at `folder`."""
    if is_url(uri) or uri.startswith("/"):
        return uri
    joined = join(folder, uri)
    scheme, mark, path = joined.partition("://")
    if mark and is_url(joined) and ".." in path.split("/"):
        # Object stores have no folders to climb out of: S3 refuses such a key.
        bucket, _, key = path.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath('/' + key)}"
    return joined


def absolute(uri: str) -> str:
    """Local paths made absolute, since workers run in other folders; URLs as they are."""
    path = local_path(uri)
    return uri if path is None else str(Path(path).expanduser().absolute())


def folder(uri: str) -> str:
    """A folder as `absolute` has it, and without a slash at its end."""
    return absolute(uri).rstrip("/") or "/"
