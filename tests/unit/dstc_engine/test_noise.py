"""Each row's randomness: reproducible, in streams that leave each other alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dstc_engine.crops import CropRange
from dstc_engine.noise import RowNoise

RANGES = CropRange(count=4, rotation=10.0, scale=(0.8, 1.0), ratio=(0.9, 1.1), flip=0.5)


def noise(seed: int, size: int = 32) -> RowNoise:
    return RowNoise(seed, size, RANGES)


def test_the_same_seed_draws_the_same() -> None:
    ours, theirs = noise(3), noise(3)
    for _ in range(3):
        assert torch.equal(ours.chain(), theirs.chain())
        assert torch.equal(ours.crops(), theirs.crops())
        assert torch.equal(ours.mask(), theirs.mask())


def test_global_seeds_have_no_say() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = noise(3).chain()
        torch.manual_seed(2)
        assert torch.equal(noise(3).chain(), first)


@pytest.mark.parametrize("clips", [0, 1, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("classes", [0, 1000])
def test_neither_crops_nor_masks_nor_classes_shift_the_chain(
    clips: int, masked: bool, classes: int
) -> None:
    calm, busy = noise(7), noise(7)
    for _ in range(3):
        if classes:
            busy.prior_class(classes)
        for _ in range(clips):
            busy.crops()
        if masked:
            busy.mask()
        assert torch.equal(calm.chain(), busy.chain())


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_draws_are_normal_and_do_not_correlate() -> None:
    # 49 152 numbers: a correlation of independent ones stays within 0.02 (4.4 sigma).
    one, near = noise(10, 128), noise(11, 128)
    draws = [one.chain(), one.chain(), one.mask(), near.chain(), near.mask()]
    for at, draw in enumerate(draws):
        assert draw.shape == (3, 128, 128) and draw.dtype == torch.float32
        assert abs(float(draw.mean())) < 0.02 and abs(float(draw.std()) - 1) < 0.02
        assert float((draw.abs() > 1.96).float().mean()) == pytest.approx(0.05, abs=0.005)
        for other in draws[:at]:
            assert abs(correlation(draw, other)) < 0.02


def test_crops_differ_by_seed_and_by_draw() -> None:
    one = noise(1)
    maps = [one.crops(), one.crops(), noise(2).crops()]
    assert all(m.shape == (4, 2, 3) for m in maps)
    assert not torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1, 2**63 - 1])
def test_the_largest_seeds_are_taken(seed: int) -> None:
    assert noise(seed).mask().isfinite().all()


def test_all_64_bits_of_a_seed_count() -> None:
    # torch's CPU generator keeps the low 32: half a million derived seeds would collide.
    assert not torch.equal(noise(5).chain(), noise(5 + 2**32).chain())
    assert not torch.equal(noise(5).chain(), noise(5 + 2**62).chain())


def test_classes_shift_neither_crops_nor_masks_and_are_not_shifted() -> None:
    calm, busy = noise(7), noise(7)
    classes = [busy.prior_class(1000) for _ in range(4)]
    assert torch.equal(calm.crops(), busy.crops()) and torch.equal(calm.mask(), busy.mask())
    calm.chain()
    assert [calm.prior_class(1000) for _ in range(4)] == classes
    assert classes != [noise(8).prior_class(1000) for _ in range(4)]


def test_classes_are_uniform() -> None:
    one = noise(4)
    drawn = np.array([one.prior_class(5) for _ in range(5000)])
    # Each of 5 classes is expected 1000 times, +-28; 4.5 sigma.
    assert np.abs(np.bincount(drawn, minlength=5) - 1000).max() < 128
    # So is each class after each other: the next draw does not follow from this one.
    pairs = np.bincount(5 * drawn[:-1] + drawn[1:], minlength=25)
    assert len(pairs) == 25 and np.abs(pairs - 200).max() < 64
