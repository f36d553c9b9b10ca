"""The networks of tiny64 that ship: what their card tells of them, and what CLIP knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from dstc_engine.weights.load import load_clip
from dstc_engine.weights.registry import find

CARD = Path(__file__).parents[3] / "docs" / "model-card.md"


def metrics(name: str) -> Mapping[str, float]:
    told: Mapping[str, float] = find(name).description()["metrics"]
    return told


@pytest.mark.parametrize(
    ("name", "metric", "line"),
    [
        ("emoji64-vit", "val_style_probe", "style from CLS, linear probe"),
        ("emoji64-vit", "val_style_5nn", "style from CLS, 5 nearest"),
        ("emoji64-vit", "val_match", "keys of `fluent_flat` match"),
        ("emoji64-vit", "val_match_drawn", "... on the drawing alone |"),
        ("emoji64-clip", "val_style", "style from its phrase"),
        ("emoji64-clip", "val_name_top5", "name among 180, top 5"),
        ("emoji64-clip", "val_direction", "direction: the method's target"),
    ],
)
def test_the_card_tells_their_metrics(name: str, metric: str, line: str) -> None:
    (row,) = [row for row in CARD.read_text().splitlines() if row.startswith(f"| {line}")]
    assert row.endswith(f"| {100 * metrics(name)[metric]:.1f} % |")


def test_the_card_tells_the_errors_of_the_prior() -> None:
    errors = " | ".join(
        f"{metrics('emoji64-prior')[f'val_x0_mse_t{time}']:.4f}" for time in (200, 400, 600)
    )
    assert f"| ships | {errors} |" in CARD.read_text()


@torch.no_grad()
def test_the_clip_knows_styles_by_their_phrases() -> None:
    clip = load_clip("emoji64-clip")
    flat, line = (clip.embed_text(text) for text in ("flat colour shapes", "black line drawing"))
    page = torch.ones(1, 3, 64, 64)
    page[..., 16:18, 12:52] = page[..., 46:48, 12:52] = -1.0
    page[..., 16:48, 12:14] = page[..., 16:48, 50:52] = -1.0  # the outline of a box
    box = torch.ones(1, 3, 64, 64)
    box[:, 0, 16:48, 12:52], box[:, 1, 16:48, 12:52] = -1.0, 0.2
    outline, filled = clip.embed_image(page)[0], clip.embed_image(box)[0]
    assert float(outline @ line) > float(outline @ flat)
    assert float(filled @ flat) > float(filled @ line)
