"""Images are fetched once, by however many threads; errors are not kept."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dstc.worker.image_cache import ImageCache
from dstc_engine.request import ImageArray

BYTES = 4 * 5 * 3


def image(level: int = 0) -> ImageArray:
    return np.full((4, 5, 3), level, np.uint8)


class Storage:
    """Counts what is fetched; slow, so that threads meet."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.fetched = Counter[str]()
        self.seconds = seconds
        self.is_well = True

    def load(self, uri: str) -> ImageArray:
        self.fetched.update([uri])
        time.sleep(self.seconds)
        if not self.is_well:
            raise OSError(f"{uri}: no answer")
        return image(int(uri))


def test_a_image_is_fetched_once() -> None:
    cache, storage = ImageCache(10 * BYTES), Storage()
    first = cache.get("1", lambda: storage.load("1"))
    assert cache.get("1", lambda: storage.load("1")) is first
    assert cache.get("2", lambda: storage.load("2"))[0, 0, 0] == 2
    assert storage.fetched == {"1": 1, "2": 1}


def test_those_not_used_for_longest_make_room() -> None:
    cache, storage = ImageCache(2 * BYTES), Storage()
    for uri in ("1", "2", "1", "3", "1", "2", "1"):
        cache.get(uri, lambda uri=uri: storage.load(uri))  # type: ignore[misc]
    assert storage.fetched == {"1": 1, "2": 2, "3": 1}


@pytest.mark.parametrize("limit", [0, BYTES - 1])
def test_a_image_larger_than_all_room_is_fetched_each_time(limit: int) -> None:
    cache, storage = ImageCache(limit), Storage()
    for _ in range(2):
        assert cache.get("7", lambda: storage.load("7")).max() == 7
    assert storage.fetched == {"7": 2}


def test_many_threads_fetch_each_image_once() -> None:
    cache, storage = ImageCache(100 * BYTES), Storage(0.002)
    uris = [str(n % 10) for n in range(400)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda uri: cache.get(uri, lambda: storage.load(uri)), uris))
    assert [int(p[0, 0, 0]) for p in found] == [int(uri) for uri in uris]
    assert storage.fetched == dict.fromkeys("0123456789", 1)


def test_another_image_is_not_waited_for() -> None:
    cache, gate = ImageCache(10 * BYTES), threading.Event()

    def slow() -> ImageArray:
        assert gate.wait(10)
        return image(1)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, "slow", slow)
        assert cache.get("quick", image).max() == 0
        assert not waiting.done()
        gate.set()
        assert waiting.result(10).max() == 1


def test_an_error_is_told_to_those_who_wait_and_forgotten() -> None:
    cache, storage = ImageCache(10 * BYTES), Storage(0.1)
    storage.is_well = False
    ready = threading.Barrier(8)

    def get(_: int) -> str:
        ready.wait(10)
        with pytest.raises(OSError, match="1: no answer") as caught:
            cache.get("1", lambda: storage.load("1"))
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(get, range(8)))) == 8
    assert storage.fetched["1"] == 1, "they asked at the same time, and one for all"
    storage.is_well = True
    assert cache.get("1", lambda: storage.load("1")).max() == 1
    assert storage.fetched["1"] == 2
