"""Finding one's own place among all places of the source."""

from __future__ import annotations

import math

import pytest
import torch

from dstc_engine.losses.contrast import contrast_loss


def brute_force(keys: torch.Tensor, source: torch.Tensor, temperature: float) -> float:
    """As the original: the positive first, the negatives with -10 in the positive's place."""
    total = 0.0
    for i, key in enumerate(keys.double()):
        cosines = [float(key @ s / key.norm() / s.norm()) for s in source.double()]
        negatives = [-10.0 if j == i else c for j, c in enumerate(cosines)]
        logits = [c / temperature for c in [cosines[i], *negatives]]
        top = max(logits)
        total += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[0]
    return total / len(keys)


@pytest.mark.parametrize("temperature", [0.07, 0.3])
def test_value_is_the_originals(temperature: float, generator: torch.Generator) -> None:
    keys, source = torch.randn(2, 3, 11, 6, generator=generator)
    loss = contrast_loss(keys, source, temperature)
    assert loss.shape == (3,)
    expected = [brute_force(k, s, temperature) for k, s in zip(keys, source, strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-4)


def test_least_at_ones_own_place(generator: torch.Generator) -> None:
    source = torch.randn(1, 11, 6, generator=generator)
    own = float(contrast_loss(source, source, 0.07))
    for shift in range(1, 11):
        assert float(contrast_loss(source.roll(shift, 1), source, 0.07)) > own + 1


def test_keys_that_are_all_alike_are_a_guess() -> None:
    keys = torch.ones(1, 7, 4)
    assert float(contrast_loss(keys, keys, 0.07)) == pytest.approx(math.log(7))
