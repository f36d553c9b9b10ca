"""The networks of tiny64/candidates: files that load, and numbers that their page tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dstc_engine.tensors import to_image
from dstc_engine.training.prior import denoised_once
from dstc_engine.weights.load import load_clip, load_dino, load_unet
from tiny64.quality.round_trip import grain

FOLDER = Path(__file__).parents[3] / "tiny64" / "candidates"


def test_the_vit_is_the_one_described() -> None:
    dino = load_dino(str(FOLDER / "vit.json"), size=64, layer=-1)  # its sum is compared
    with torch.no_grad():
        seen = dino(torch.zeros(1, 3, 64, 64))
    assert seen.keys.shape == (1, 257, 128) and bool(seen.keys.isfinite().all())


@torch.no_grad()
def test_the_clip_is_the_one_described_and_knows_the_styles_by_their_phrases() -> None:
    clip = load_clip(str(FOLDER / "clip.json"))
    flat, line = (clip.embed_text(text) for text in ("flat colour shapes", "black line drawing"))
    page = torch.ones(1, 3, 64, 64)
    page[..., 16:18, 12:52] = page[..., 46:48, 12:52] = -1.0
    page[..., 16:48, 12:14] = page[..., 16:48, 50:52] = -1.0  # the outline of a box
    box = torch.ones(1, 3, 64, 64)
    box[:, 0, 16:48, 12:52], box[:, 1, 16:48, 12:52] = -1.0, 0.2
    outline, filled = clip.embed_image(page)[0], clip.embed_image(box)[0]
    assert float(outline @ line) > float(outline @ flat)
    assert float(filled @ flat) > float(filled @ line)


def test_the_prior_leaves_less_grain_than_the_one_that_ships() -> None:
    drawn = torch.ones(4, 3, 64, 64)
    for row, color in enumerate(((0.9, -0.2, -0.6), (-0.4, 0.3, 0.8), (0.1, 0.7, -0.3), (0, 0, 0))):
        drawn[row, :, 12:52, 16 - row : 48 + row] = torch.tensor(color)[:, None, None]
    left = {
        prior: denoised_once(load_unet(prior, 64).eval(), drawn, time=250)
        for prior in ("emoji64-prior", str(FOLDER / "prior.json"))
    }
    ships, candidate = (
        np.mean([grain(to_image(of), to_image(true)) for of, true in zip(many, drawn, strict=True)])
        for many in left.values()
    )
    assert candidate < 0.95 * ships


@pytest.mark.parametrize(
    ("file", "metric"),
    [
        ("vit", "val_style_probe"),
        ("vit", "val_match_drawn"),
        ("clip", "val_style"),
        ("clip", "val_direction"),
    ],
)
def test_the_page_tells_their_metrics(file: str, metric: str) -> None:
    page = (FOLDER / "README.md").read_text()
    for folder in (FOLDER, FOLDER.parents[1] / "dstc_engine" / "weights" / "tiny"):
        value = json.loads((folder / f"{file}.json").read_text())["metrics"][metric]
        assert f" {100 * value:.1f} % " in page
