"""Images made small enough to lie inside a page, as `data:` URIs."""

from __future__ import annotations

import base64
import io
import posixpath
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, replace

from PIL import Image

from dstc.errors import StorageError
from dstc.store import urls
from dstc.store.byte_ranges import byte_range
from dstc.store.input_policy import ASKED_FOR, InputPolicy, InputTooLarge, NotAllowed
from dstc.store.inputs import read_input
from dstc.text import redact
from dstc_engine.errors import ImageError
from dstc_engine.image import decode, unpad
from dstc_engine.image import fit as fit_image
from dstc_engine.request import ImageArray

# Longer side of an image that is written into a page, at most.
MAX_SIDE = 256
# Images up to this side are shown enlarged, pixel by pixel: marks of JPEG would pass for ours.
LOSSLESS_SIDE = 64
# Storage that failed so often, and never for the lack of a file, is not asked again: each try takes
# seconds, and a page has hundreds of images.
_GIVE_UP_AFTER = 4


@dataclass(frozen=True)
class Thumbnail:
    """An image for a page, or why there is none.

    Attributes:
        data: a `data:` URI, or None. width, height: of the image in it.
        problem: a short text where there is no image.
        link: where a browser finds the file itself, from the page; None where it cannot.
    """

    data: str | None = None
    width: int = 0
    height: int = 0
    problem: str | None = None
    link: str | None = None


class Thumbnails:
    """Reads images and makes them small; each URI once. Safe to call from several threads.

    Args:
        side: pixels of the longer side, at most.
        size, fit: of the preset; inputs are fitted as the engine does it. None leaves them whole.
        policy: what URIs of inputs may name.
        beside: the folder that the page will lie in; None where files cannot be reached from it.
    """

    def __init__(
        self,
        side: int,
        size: int | None = None,
        fit: str = "crop",
        policy: InputPolicy = ASKED_FOR,
        beside: str | None = None,
    ) -> None:
        self._side = min(side, MAX_SIDE)
        self._size = size
        self._fit = fit
        self._policy = policy
        self._beside = beside
        self._result_policy = replace(policy, any_local=True)
        self._made: dict[tuple[str, bool], Thumbnail] = {}
        self._lock = threading.Lock()
        self._faults = Counter[str]()

    def input(self, uri: str) -> Thumbnail:
        """A content or style image, fitted so that it lines up with the result."""
        return self._get(uri, fitted=True)

    def result(self, uri: str) -> Thumbnail:
        """A finished image."""
        return self._get(uri, fitted=False)

    def _get(self, uri: str, fitted: bool) -> Thumbnail:
        with self._lock:
            made = self._made.get((uri, fitted))
        if made is None:
            made = replace(self._make(uri, fitted), link=link_to(uri, self._beside))
            with self._lock:
                self._made[uri, fitted] = made
        return made

    def _make(self, uri: str, fitted: bool) -> Thumbnail:
        place = _place(uri)
        if self._faults[place] >= _GIVE_UP_AFTER:
            return Thumbnail(problem=f"not tried: {redact(place)} did not answer")
        try:
            data = read_input(uri, self._policy if fitted else self._result_policy)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return Thumbnail(problem="there is no such file")
        except (InputTooLarge, NotAllowed) as error:
            return Thumbnail(problem=str(error))
        except (StorageError, ValueError):
            return Thumbnail(problem="a URI that cannot be used")
        except Exception as error:  # drivers raise their own types; none may take the page down
            with self._lock:
                self._faults[place] += 1
            return Thumbnail(problem=f"cannot be fetched: {type(error).__name__}")
        try:
            image = decode(data)
        except ImageError:
            return Thumbnail(problem="not a readable image")
        if fitted and self._size is not None:
            image = _fitted(image, self._size, self._fit)
        return shrink(image, self._side)


def link_to(uri: str, beside: str | None) -> str | None:
    """What a page links to a file by; None where a browser cannot open it from there.

    Args:
        uri: of the file. beside: the folder that the page lies in, if in any.

    Example:
        >>> link_to("/run/images/a b.png", "/run"), link_to("s3://bucket/a.png", "/run")
        ('images/a%20b.png', None)
    """
    if byte_range(uri) is not None:
        return None  # browsers ask for whole files
    if uri.startswith(("http://", "https://")):
        return uri if redact(uri) == uri else None  # a signature does not get into the page
    if beside is not None and uri.startswith(beside.rstrip("/") + "/"):
        return urllib.parse.quote(uri[len(beside.rstrip("/")) + 1 :])
    if beside is None or urls.is_url(uri) or urls.is_url(beside):
        return None
    return urllib.parse.quote(posixpath.relpath(uri, beside))


def shrink(image: ImageArray, side: int) -> Thumbnail:
    """(H, W, 3) uint8 as a data URI, the longer side at most `side`; PNG or JPEG, the smaller."""
    opened = Image.fromarray(image)
    if max(opened.size) > side:
        opened.thumbnail((side, side), Image.Resampling.LANCZOS)
    files = {"png": _encode(opened, "PNG")}
    if max(opened.size) > LOSSLESS_SIDE:
        files["jpeg"] = _encode(opened, "JPEG", quality=88, subsampling=0)
    kind, data = min(files.items(), key=lambda file: len(file[1]))
    text = base64.b64encode(data).decode("ascii")
    return Thumbnail(f"data:image/{kind};base64,{text}", opened.width, opened.height)


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, optimize=True, **options)
    return file.getvalue()


def _fitted(image: ImageArray, size: int, mode: str) -> ImageArray:
    fitted = fit_image(image, size, mode)
    return unpad(fitted, *image.shape[:2]) if mode == "pad" else fitted


def _place(uri: str) -> str:
    """Protocol and host or bucket; all local files are one place."""
    if not urls.is_url(uri):
        return "local storage"
    protocol, _, rest = uri.partition("://")
    return f"{protocol}://{rest.partition('/')[0]}"
