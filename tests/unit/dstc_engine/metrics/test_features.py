"""What networks say of a picture: copies of content and style, missing parts, other directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dstc_engine.metrics.features import FEATURE_METRICS, Judges
from dstc_engine.models import Models
from tests.unit.dstc_engine import tiny

CONTENT, STYLE, RESULT = tiny.picture(1), tiny.picture(2), tiny.picture(3)


@pytest.fixture
def judges(models: Models) -> Judges:
    return Judges(models.dino, models.clips[0], torch.device("cpu"))


def test_a_copy_of_the_content_keeps_all_structure(judges: Judges) -> None:
    found = judges.measure(CONTENT, CONTENT, STYLE, "a fox", "a dog")
    assert set(found) == set(FEATURE_METRICS)
    assert found["structure_distance"] == 0 and found["style_similarity"] < 0.999
    assert math.isnan(found["clip_direction"]), "it has not moved"


def test_a_copy_of_the_style_is_all_style(judges: Judges) -> None:
    found = judges.measure(STYLE, CONTENT, STYLE, None, None)
    assert found["style_similarity"] == pytest.approx(1.0, abs=1e-6)
    assert found["structure_distance"] > 1e-4
    assert math.isnan(found["clip_score"]) and math.isnan(found["clip_direction"])


def test_cosines_are_those_of_the_embeddings(judges: Judges, models: Models) -> None:
    found = judges.measure(RESULT, CONTENT, None, "a fox", "a dog")
    assert math.isnan(found["style_similarity"])
    clip = models.clips[0]
    with torch.no_grad():
        a, b = (
            clip.embed_picture(torch.from_numpy(p / 127.5 - 1).permute(2, 0, 1).float()[None])[0]
            for p in (RESULT, CONTENT)
        )
        fox, dog = clip.embed_text("a fox"), clip.embed_text("a dog")
    assert found["clip_score"] == pytest.approx(float(a @ fox), abs=1e-5)
    moved, meant = (a - b).numpy(), (fox - dog).numpy()
    cosine = moved @ meant / np.linalg.norm(moved) / np.linalg.norm(meant)
    assert found["clip_direction"] == pytest.approx(float(cosine), abs=1e-4)


def test_networks_may_be_left_out() -> None:
    blind = Judges(None, None, torch.device("cpu"))
    assert all(map(math.isnan, blind.measure(RESULT, CONTENT, STYLE, "a", "b").values()))
