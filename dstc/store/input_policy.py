"""What the URIs of a manifest may name: a URI is data, and whoever wrote it may be anybody."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dstc.errors import StorageError
from dstc.text import MAX_SHOWN, parse_url, shortened, visible

# Schemes that a manifest may name, beside local paths; no other driver is ever made for one.
SCHEMES = frozenset("file s3 s3a gs gcs abfs abfss az hf http https".split())
# A URL signed by AWS with a session token takes about 2,000 characters.
MAX_URI = 8192
MAX_IMAGE_BYTES = 200_000_000


class InputTooLarge(StorageError):
    """A file of more bytes than allowed; reading stopped there."""

    def __init__(self, most: int) -> None:
        super().__init__(f"more than {most:,} bytes; expected fewer, or a larger --max-image-bytes")


class NotAllowed(StorageError):
    """A file or address that is only read where an option allows it."""


@dataclass(frozen=True)
class InputPolicy:
    """What may be opened for a row, set by whoever runs the command and never by its data.

    Attributes:
        any_local: every regular file of this machine, since the manifest lies there too.
        local_folders: else only files below these.
        private_hosts: web servers at private and loopback addresses.
        max_bytes: of one image file.

    Example:
        InputPolicy(local_folders=("/data",)).for_manifest("s3://bucket/rows.parquet")
    """

    any_local: bool = False
    local_folders: tuple[str, ...] = ()
    private_hosts: bool = False
    max_bytes: int = MAX_IMAGE_BYTES

    def for_manifest(self, uri: str) -> InputPolicy:
        """This policy where URIs are named by a manifest, or anything else, that lies at `uri`."""
        url = parse_url(uri)
        return replace(self, any_local=url is None or url.scheme == "file")


# What data may name where nobody has said more: remote storage, and public web servers.
STRICT = InputPolicy()
# What a person may name who calls a function with paths of their own.
ASKED_FOR = InputPolicy(any_local=True)


def check_uri(uri: str) -> None:
    """Checks a URI that a manifest or a redirect names, before anything is made of it.

    Raises:
        StorageError: too long, an unknown scheme, a chain of file systems, or credentials inside.
    """
    if len(uri) > MAX_URI:
        raise StorageError(f"a URI of {len(uri):,} characters; expected at most {MAX_URI:,}")
    if uri[:5].lower() == "data:":
        raise StorageError("a data: URI; expected a path or the URL of a file")
    if "\0" in uri:
        raise StorageError("a URI with a null character; expected none")
    url = parse_url(uri)
    if url is None:
        first, chained, rest = uri.partition("::")
        if chained and "://" in rest and "/" not in first:
            raise StorageError(
                "file systems are not chained by '::'; expected a path or one URL of "
                + ", ".join(sorted(SCHEMES))
            )
        return
    if url.scheme not in SCHEMES:
        raise StorageError(
            f"the scheme {shortened(url.scheme, 40)!r} is not opened; expected a local path or "
            + ", ".join(sorted(SCHEMES))
        )
    if url.user is not None:
        raise StorageError(
            "the URI carries a user or a password; give credentials through the environment "
            "(AWS_ACCESS_KEY_ID, ...)"
        )
    if any(ord(character) < 32 or ord(character) == 127 for character in uri):
        raise StorageError("a URL with a control character; expected none")
    if not url.host and url.scheme != "file":
        raise StorageError("a URL without a host or bucket")


def shown_uri(uri: str) -> str:
    """A URI for an error: visible, without what is secret in it, at most 500 characters."""
    return shortened(visible(str(parse_url(uri) or uri)), MAX_SHOWN)
