"""Evaluation models: copies of content and style, missing parts, other directions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dstc_engine.losses.structure import self_similarity, structure_loss
from dstc_engine.metrics import METRICS
from dstc_engine.metrics.evaluation_models import EvaluationModels
from dstc_engine.metrics.segmentation import foreground
from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.models import Models
from dstc_engine.request import ImageArray
from tests.unit.dstc_engine import tiny

CONTENT, STYLE, RESULT = tiny.image(1), tiny.image(2), tiny.image(3)


@pytest.fixture
def evaluation_models(models: Models) -> EvaluationModels:
    return EvaluationModels(models.dino, models.clips[0])


def compare(
    evaluation_models: EvaluationModels,
    result: ImageArray,
    content: ImageArray,
    style: ImageArray | None,
    **texts: Any,
) -> dict[str, float]:
    given = [image for image in (result, content, style) if image is not None]
    return evaluation_models.compare(*evaluation_models.features(given), **texts)


def test_a_copy_of_the_content_keeps_all_structure(evaluation_models: EvaluationModels) -> None:
    found = compare(
        evaluation_models, CONTENT, CONTENT, STYLE, prompt="a fox", source_prompt="a dog"
    )
    assert set(found) < set(METRICS)
    assert found["structure_distance"] == 0 and found["style_similarity"] < 0.999
    assert math.isnan(found["clip_direction"]), "it has not moved"


def test_a_copy_of_the_style_is_all_style(evaluation_models: EvaluationModels) -> None:
    found = compare(evaluation_models, STYLE, CONTENT, STYLE)
    assert found["style_similarity"] == pytest.approx(1.0, abs=1e-6)
    assert found["structure_distance"] > 1e-4
    assert math.isnan(found["clip_score"]) and math.isnan(found["clip_direction"])


def test_structure_is_the_loss_that_guides(
    evaluation_models: EvaluationModels, models: Models
) -> None:
    assert models.dino is not None
    with torch.no_grad():
        ours, theirs = (
            models.dino(torch.from_numpy(p / 127.5 - 1).permute(2, 0, 1).float()[None]).keys
            for p in (RESULT, CONTENT)
        )
    expected = float(structure_loss(ours, self_similarity(theirs)))
    found = compare(evaluation_models, RESULT, CONTENT, None)["structure_distance"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_cosines_are_those_of_the_embeddings(
    evaluation_models: EvaluationModels, models: Models
) -> None:
    found = compare(evaluation_models, RESULT, CONTENT, None, prompt="a fox", source_prompt="a dog")
    assert math.isnan(found["style_similarity"])
    clip = models.clips[0]
    with torch.no_grad():
        a, b = (
            clip.embed_image(torch.from_numpy(p / 127.5 - 1).permute(2, 0, 1).float()[None])[0]
            for p in (RESULT, CONTENT)
        )
        fox, dog = clip.embed_text("a fox"), clip.embed_text("a dog")
    assert found["clip_score"] == pytest.approx(float(a @ fox), abs=1e-5)
    moved, meant = (a - b).numpy(), (fox - dog).numpy()
    cosine = moved @ meant / np.linalg.norm(moved) / np.linalg.norm(meant)
    assert found["clip_direction"] == pytest.approx(float(cosine), abs=1e-4)


def test_judges_may_be_left_out() -> None:
    found = compare(EvaluationModels(), RESULT, CONTENT, STYLE, prompt="a", source_prompt="b")
    assert all(map(math.isnan, found.values()))
    assert math.isnan(EvaluationModels().perceptual_distance(RESULT, CONTENT))


def test_a_image_is_looked_at_once(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.dino is not None
    seen: list[int] = []
    forward = models.dino.forward

    def counted(batch: torch.Tensor) -> Any:
        seen.append(len(batch))
        return forward(batch)

    monkeypatch.setattr(models.dino, "forward", counted)
    evaluation_models = EvaluationModels(models.dino)
    first = evaluation_models.features([CONTENT, STYLE, CONTENT])
    again = evaluation_models.features([STYLE, RESULT, CONTENT])
    assert seen == [2, 1]
    assert torch.equal(first[0]["similarity"], again[2]["similarity"])
    assert torch.equal(first[1]["cls"], again[0]["cls"])


def test_sets_are_described_as_their_images_are_seen(models: Models) -> None:
    evaluation_models = EvaluationModels(models.dino)
    described = evaluation_models.describe([CONTENT, STYLE])
    assert described is not None
    for values, features in zip(
        described, evaluation_models.features([CONTENT, STYLE]), strict=True
    ):
        assert torch.equal(values, features["set"]) and torch.equal(values, features["cls"])
    pixels = EvaluationModels(models.dino, set_features=lambda batch: batch.flatten(1))
    assert pixels.features([CONTENT])[0]["set"].shape == (3 * tiny.SIZE**2,)
    assert EvaluationModels().describe([CONTENT]) is None


def test_what_is_seen_does_not_depend_on_its_neighbors(
    evaluation_models: EvaluationModels, models: Models
) -> None:
    alone = EvaluationModels(models.dino, models.clips[0]).features([RESULT])[0]
    beside = evaluation_models.features([tiny.image(n) for n in range(20)] + [RESULT])[-1]
    for name, values in alone.items():
        torch.testing.assert_close(beside[name], values, rtol=1e-4, atol=1e-5)


def test_shapes_styles_and_faces_have_judges_of_their_own() -> None:
    def box(level: int, left: int = 4) -> ImageArray:
        image = np.full((16, 16, 3), 255, np.uint8)
        image[4:12, left : left + 8] = level
        return image

    def face(batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(batch.mean(dim=(2, 3)) + 1.1, dim=-1)

    known = [(box(level), "dark" if level < 100 else "pale") for level in (*range(40), 150, 160)]
    classifier = StyleClassifier(*zip(*known, strict=True))
    evaluation_models = EvaluationModels(
        arcface=face, segmentation=foreground(), classifier=classifier
    )  # type: ignore[arg-type]
    found = compare(evaluation_models, box(20, left=6), box(155), None, target_style="dark")
    assert found["style_right"] == 1.0
    assert found["mask_iou"] == pytest.approx(6 * 8 / (10 * 8))
    assert found["identity"] == pytest.approx(1.0, abs=1e-6)
    assert (
        compare(evaluation_models, box(20), box(155), None, target_style="pale")["style_right"]
        == 0.0
    )
    assert math.isnan(
        compare(evaluation_models, box(20), box(155), None, target_style="x")["style_right"]
    )
    # Labels that are given stand in for those of the content.
    labels = torch.zeros(16, 16, dtype=torch.int64)
    labels[4:12, 6:14] = 1
    features = evaluation_models.features([box(20, left=6), box(155)])
    assert evaluation_models.compare(*features, labels=labels)["mask_iou"] == 1.0
