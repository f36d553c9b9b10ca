from __future__ import annotations

import torch
import torch.nn.functional as F

from tiny64.vit_metrics import position_match, self_similarity_distance, style_accuracy


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_style_accuracy_of_clear_and_of_shuffled_styles() -> None:
    styles = torch.arange(6).repeat(20)
    tokens = F.one_hot(styles).float() + 0.05 * torch.randn(120, 6, generator=_seeded())
    assert style_accuracy(tokens, styles, tokens, styles) == (1.0, 1.0)
    noise = torch.randn(120, 6, generator=_seeded())
    probe, neighbors = style_accuracy(noise[:60], styles[:60], noise[60:], styles[60:])
    assert probe < 0.5 and neighbors < 0.5


def test_position_match_counts_neighbors() -> None:
    keys = torch.eye(16)[None]
    exact, near = position_match(keys, keys.roll(1, 1), 4)
    assert not exact.any()
    # One to the right is a neighbour, except past the edge.
    assert int(near.sum()) == 12
    assert position_match(keys, keys, 4)[0].all()


def test_self_similarity_ignores_rotated_keys() -> None:
    keys = torch.randn(2, 9, 4, generator=_seeded())
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=_seeded()))
    assert self_similarity_distance(keys, 3 * keys @ turn).abs().max() < 1e-5
    assert self_similarity_distance(keys, keys.roll(1, 1)).min() > 0.01
