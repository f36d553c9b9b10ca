"""Distances of images, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dstc_engine.metrics.pixels import MOST_DB, l1, psnr, ssim
from tests.unit.dstc_engine import tiny


def test_psnr_and_l1_of_a_constant_difference() -> None:
    a, b = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 110, np.uint8)
    assert psnr(a, b) == pytest.approx(20 * math.log10(255 / 10)) == psnr(b, a)
    assert l1(a, b) == pytest.approx(10 / 255)
    assert psnr(a, a) == MOST_DB and l1(a, a) == 0


def test_ssim_of_equal_shifted_and_inverted_images() -> None:
    image = tiny.image(3, 64, 64)
    assert ssim(image, image) == pytest.approx(1.0)
    # Windows of constant images: the luminance term alone is left.
    a, b = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))
    assert ssim(image, 255 - image) < 0.2 < ssim(image, np.clip(image + 9.0, 0, 255))
