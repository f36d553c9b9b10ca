"""What is remembered, for how long, and how much memory it takes."""

from __future__ import annotations

import pytest
import torch

from dstc_engine.feature_cache import FeatureCache, Features

KB = 256  # float32 numbers


class Looks:
    """Counts how often it is asked."""

    def __init__(self, numbers: int = KB) -> None:
        self.count = 0
        self.numbers = numbers

    def __call__(self) -> Features:
        self.count += 1
        return (torch.full((self.numbers,), float(self.count)),)


def test_a_second_look_is_remembered() -> None:
    cache, looks = FeatureCache(4096), Looks()
    first = cache.get("a", looks)
    assert cache.get("a", looks) is first and looks.count == 1
    assert cache.get("b", looks) is not first and looks.count == 2
    assert (len(cache), cache.size) == (2, 2048)


def test_those_not_used_for_longest_are_forgotten_first() -> None:
    cache, looks = FeatureCache(3 * 1024), Looks()
    for key in "abcab":
        cache.get(key, looks)
    cache.get("d", looks)  # c was used least lately
    assert looks.count == 4 and cache.size == 3 * 1024
    for key in "abd":
        cache.get(key, looks)
    assert looks.count == 4
    cache.get("c", looks)
    assert looks.count == 5 and len(cache) == 3


def test_many_small_ones_make_room_for_a_large_one() -> None:
    cache = FeatureCache(10 * 1024)
    for key in range(10):
        cache.get(key, Looks())
    cache.get("large", Looks(9 * KB))
    assert (len(cache), cache.size) == (2, 10 * 1024)


@pytest.mark.parametrize("limit", [0, 1023])
def test_what_is_larger_than_all_room_is_not_kept(limit: int) -> None:
    cache, looks = FeatureCache(limit), Looks()
    for _ in range(2):
        cache.get("a", looks)
    assert (looks.count, len(cache), cache.size) == (2, 0, 0)


def test_a_view_does_not_keep_what_it_is_a_view_of() -> None:
    whole = torch.arange(100.0 * KB).reshape(100, KB)
    cache = FeatureCache(4096)
    (kept,) = cache.get("a", lambda: (whole[:, 7:8],))
    assert torch.equal(kept, whole[:, 7:8]) and kept.is_contiguous()
    assert kept.untyped_storage().nbytes() == 400 == cache.size


def test_an_error_is_not_remembered() -> None:
    def fail() -> Features:
        raise RuntimeError("no")

    cache, looks = FeatureCache(4096), Looks()
    with pytest.raises(RuntimeError, match="no"):
        cache.get("a", fail)
    cache.get("a", looks)
    assert looks.count == 1
