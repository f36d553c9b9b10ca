"""Threads that decode hold no more bytes together than they may."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from dstc_engine.decoding import read
from dstc_engine.decoding.memory import ByteBudget
from tests.hostile.image_files import COLORS, saved


def test_together_they_stay_below_the_limit_and_a_large_one_is_alone() -> None:
    budget, lock = ByteBudget(100), threading.Lock()
    held: list[int] = []
    sums: list[list[int]] = []

    def work(size: int) -> None:
        with budget.hold(size):
            with lock:
                held.append(size)
                sums.append(list(held))
            time.sleep(0.002)
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 10, 250, 30, 30, 30, 100, 5] * 4))
    assert all(sum(sizes) <= 100 or sizes == [250] for sizes in sums)
    assert max(len(sizes) for sizes in sums) > 1, "small ones run side by side"


def test_what_ends_badly_gives_its_bytes_back() -> None:
    budget = ByteBudget(10)
    for _ in range(3):
        with pytest.raises(ValueError), budget.hold(10):
            raise ValueError
    with budget.hold(10):
        pass


def test_a_decoder_holds_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Seen(ByteBudget):
        @contextmanager
        def hold(self, size: int) -> Any:
            asked.append(size)
            with super().hold(size):
                yield

    monkeypatch.setattr(read, "_BUDGET", Seen(1 << 30))
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "GIF", "BMP"):
        data = saved(pixels, kind)
        read.read_image(data)
        # Pillow's image has 4 bytes for a pixel (a GIF's one), the array 3.
        least = 4e6 if kind == "GIF" else 7e6
        assert least <= asked.pop() - len(data) <= 30e6, kind
    read.read_image(saved(COLORS, "JPEG", progressive=True))
    (progressive,) = asked
    asked.clear()
    read.read_image(saved(COLORS, "JPEG"))
    assert progressive > asked[0] + 5 * COLORS[..., 0].size, "all coefficients are kept"


def test_eight_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(np.zeros((2000, 2000, 3), np.uint8))
    budget = ByteBudget(40_000_000)  # holds one of them, reckoned at 8 bytes a pixel
    most = [0]
    monkeypatch.setattr(read, "_BUDGET", budget)
    load = read._load

    def watched(*arguments: Any) -> Any:
        most[0] = max(most[0], budget._held)
        return load(*arguments)

    monkeypatch.setattr(read, "_load", watched)
    with ThreadPoolExecutor(8) as pool:
        shapes = {decoded.pixels.shape for decoded in pool.map(read.read_image, [data] * 8)}
    assert shapes == {(2000, 2000, 3)} and 28_000_000 < most[0] <= 40_000_000
