"""The classifier of the augmentation experiment."""

from __future__ import annotations

import pytest
import torch

from tiny64.quality import augmentation
from tiny64.quality.augmentation import keep, train


def plain(red: int, blue: int) -> torch.Tensor:
    """(2, 3, 64, 64): one image of each class."""
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    images[0, 0], images[1, 2] = red, blue
    return images


def test_a_class_is_told_in_each_form_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "STEPS", 30)
    bright, dark = plain(250, 250), plain(90, 90)
    labels = torch.tensor([0, 1])
    network = train([bright, dark], labels, keep, seed=0)
    with torch.no_grad():
        for form in (bright, dark):
            assert torch.equal(network(form.float() / 255).argmax(dim=1), labels)


def test_a_training_is_repeated_by_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "STEPS", 2)
    labels = torch.tensor([0, 1])
    first, again, other = (
        train([plain(250, 90)], labels, keep, seed)[-1].weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)  # type: ignore[arg-type]
