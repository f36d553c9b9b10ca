"""Images that rows share, fetched and decoded once in each actor.

Ten million rows in ten styles would otherwise ask storage ten million times for ten files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something with a size in memory: an array, or an image with what was assumed of it."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""


ImageT = TypeVar("ImageT", bound=Sized)


class ImageCache(Generic[ImageT]):
    """Images by URI, those used last, up to so many bytes; may be used from several threads.

    A file that changes while an actor lives is not noticed: a run's inputs are taken as fixed.

    Args:
        limit: bytes of all images together; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._size = 0
        self._kept: OrderedDict[str, ImageT] = OrderedDict()
        self._loading: dict[str, Future[ImageT]] = {}

    def get(self, uri: str, load: Callable[[], ImageT]) -> ImageT:
        """The image of a URI; not to be written to.

        Where another thread is at it already, its image is waited for, and so is its error: eight
        threads that each tried a dead host for a minute would hold up the actor for eight. Whoever
        comes after the error tries again.

        Args:
            uri: names it. load: fetches and decodes it; what it raises is raised here.
        """
        with self._lock:
            if uri in self._kept:
                self._kept.move_to_end(uri)
                return self._kept[uri]
            loading = self._loading.get(uri)
            is_mine = loading is None
            if loading is None:
                loading = self._loading[uri] = Future()
        if is_mine:
            self._load(uri, load, loading)
        return loading.result()

    def _load(self, uri: str, load: Callable[[], ImageT], loading: Future[ImageT]) -> None:
        try:
            image = load()
        except BaseException as error:
            with self._lock:
                del self._loading[uri]
            loading.set_exception(error)
            return
        with self._lock:
            # Together, or a third thread between the two would load it again.
            del self._loading[uri]
            self._keep(uri, image)
        loading.set_result(image)

    def _keep(self, uri: str, image: ImageT) -> None:
        if image.nbytes > self._limit:
            return  # it would push out all others, and itself
        self._kept[uri] = image
        self._size += image.nbytes
        while self._size > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self._size -= dropped.nbytes
