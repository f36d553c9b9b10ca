from __future__ import annotations

import torch

from tiny64.views import (
    degrade,
    normalize,
    random_crops,
    random_geometry,
    recolor,
    silhouettes,
    warp,
)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_paper_inside_an_outline_belongs_to_the_drawing() -> None:
    ring = torch.full((1, 3, 12, 12), 255, dtype=torch.uint8)
    ring[:, :, 3:9, 3:9] = 0
    ring[:, :, 4:8, 4:8] = 255
    drawn = silhouettes(ring)
    assert drawn[0, 3:9, 3:9].all()
    assert int(drawn.sum()) == 36


def test_paper_behind_a_gap_is_background() -> None:
    ring = torch.full((1, 3, 12, 12), 255, dtype=torch.uint8)
    ring[:, :, 3:9, 3:9] = 0
    ring[:, :, 4:8, 4:8] = 255
    ring[:, :, 3, 5] = 255
    assert not silhouettes(ring)[0, 4:8, 4:8].any()


def test_warp_by_the_identity_changes_nothing() -> None:
    images = torch.rand(2, 3, 8, 8, generator=_seeded())
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    assert torch.allclose(warp(images, identity), images, atol=1e-5)


def test_warp_fills_with_white() -> None:
    black = -torch.ones(1, 3, 8, 8)
    away = torch.tensor([[[1.0, 0, 1.0], [0, 1, 0]]])
    moved = warp(black, away)
    assert torch.allclose(moved[..., :4], black[..., :4], atol=1e-5)
    assert torch.allclose(moved[..., 4:], -black[..., 4:], atol=1e-5)


def test_half_of_the_geometries_are_flips_and_none_shears() -> None:
    geometry = random_geometry(400, _seeded(), scale=(0.5, 2.0))[:, :, :2]
    flips = torch.det(geometry) < 0
    assert 150 < int(flips.sum()) < 250
    gram = geometry.transpose(1, 2) @ geometry
    assert torch.allclose(gram[:, 0, 1], torch.zeros(400), atol=1e-5)
    assert torch.allclose(gram[:, 0, 0], gram[:, 1, 1], atol=1e-5)
    assert 0.25 - 1e-4 < float(gram[:, 0, 0].min()) and float(gram[:, 0, 0].max()) < 4 + 1e-4


def test_crops_have_the_area_that_the_engine_crops() -> None:
    area = torch.det(random_crops(400, _seeded())[:, :, :2]).abs()
    assert 0.79 < float(area.min()) and float(area.max()) <= 1.0 + 1e-5


def test_recoloring_leaves_paper_white_and_some_images_alone() -> None:
    images = torch.rand(64, 3, 8, 8, generator=_seeded()) * 2 - 1
    images[:, :, :2] = 1
    changed = recolor(images, 0.5, _seeded())
    assert torch.allclose(changed[:, :, :2], torch.ones(64, 3, 2, 8), atol=1e-5)
    assert float(changed.min()) >= -1 and float(changed.max()) <= 1 + 1e-6
    same = (changed == images).flatten(1).all(1)
    assert 16 < int(same.sum()) < 48


def test_degrading_keeps_the_mean_and_can_be_left_off() -> None:
    images = torch.rand(16, 3, 32, 32, generator=_seeded())
    assert torch.allclose(degrade(images, 0.0, _seeded()), images, atol=1e-6)
    changed = degrade(images, 1.0, _seeded())
    assert not torch.allclose(changed, images, atol=1e-2)
    assert (changed.mean((1, 2, 3)) - images.mean((1, 2, 3))).abs().max() < 0.05


def test_normalized_means_are_zero() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.2, 0.2)
    image = torch.tensor(mean)[None, :, None, None].expand(1, 3, 2, 2) * 2 - 1
    assert normalize(image, mean, std).abs().max() < 1e-5
