"""What the prior makes of the right answer, alone and with a guide that knows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dstc_engine.metrics.style_classifier import StyleClassifier
from dstc_engine.presets import get_preset, with_fields
from dstc_engine.request import ImageArray
from tests.unit.dstc_engine import tiny
from tests.unit.tiny64.quality.test_emoji import STYLES, data, drawing
from tiny64.quality.images import read_images, translate_missing
from tiny64.quality.round_trip import (
    ALONE,
    BY_ANSWER,
    GRAINS,
    GUIDED,
    grain,
    grain_lines,
    grained,
    lines,
    with_answers,
)
from tiny64.quality.rows import benchmark_rows
from tiny64.quality.ways import ABLATIONS, UNGUIDED

ROWS = with_answers(benchmark_rows(data(), 4), "content")


def test_answers_go_through_the_prior_and_no_guide_has_a_say(tmp_path: Path) -> None:
    assert len(ROWS) == 4 and all(row.request.content is row.truth for row in ROWS)
    preset = with_fields(tiny.PRESET, ABLATIONS[UNGUIDED])
    blind = tiny.make_models()
    blind.dino, blind.clips = None, ()
    for work, models in ((tmp_path / "all", tiny.make_models()), (tmp_path / "blind", blind)):
        translate_missing(models, preset, {ALONE: {}}, ROWS, work, slots=2)
    images = read_images(ALONE, ROWS, tmp_path / "all")
    assert len({image.tobytes() for image in images}) == len(ROWS)
    # Other guides, the same prior: the same images.
    again = read_images(ALONE, ROWS, tmp_path / "blind")
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


def test_a_guide_that_knows_the_answer_comes_nearer_to_it(tmp_path: Path) -> None:
    rows = with_answers(benchmark_rows(data(), 4), "style")
    assert len(rows) == 4 and all(row.request.style is row.truth for row in rows)
    # From the same noise: the last is a guide that knows another row's answer.
    wrong = [
        dataclasses.replace(row, request=dataclasses.replace(row.request, style=other.truth))
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    preset = with_fields(tiny.PRESET, {"guidance_step": "spherical", "guidance_rate": "0.3"})
    made, models = [], tiny.make_models()
    for work, of, fields in (
        ("right", rows, BY_ANSWER),
        ("harder", rows, {**BY_ANSWER, "weight_style_pixels": "1000"}),
        ("wrong", wrong, BY_ANSWER),
    ):
        translate_missing(models, preset, {GUIDED: fields}, of, tmp_path / work, slots=2)
        made.append(read_images(GUIDED, of, tmp_path / work))
    # The networks of the test are 16 pixels wide.
    answers = [
        row.truth.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
        for row in rows
        if row.truth is not None
    ]
    right, far = (
        [float(np.abs(a - b).mean()) for a, b in zip(images, answers, strict=True)]
        for images in (made[0], made[2])
    )
    assert all(a < b for a, b in zip(right, far, strict=True))
    # The weight changes nothing but roundings.
    for image, again in zip(made[0], made[1], strict=True):
        assert np.abs(image.astype(int) - again).max() <= 1


def test_unguided_means_that_no_loss_counts() -> None:
    preset = with_fields(get_preset("tiny64"), ABLATIONS[UNGUIDED])
    weights = [value for name, value in vars(preset).items() if name.startswith("weight_")]
    assert len(weights) >= 10 and not any(weights)


def test_a_line_tells_what_was_kept() -> None:
    drawn = [(drawing(seed, style), style) for seed in range(12) for style in STYLES]
    classifier = StyleClassifier([image for image, _ in drawn], [style for _, style in drawn])
    answers = [row.truth for row in ROWS if row.truth is not None]
    whole = lines(ROWS, answers, classifier)
    assert [line[0] for line in whole] == [row.target for row in ROWS]
    assert all(line[3] == line[2] and line[4:6] == ["1.00", "0.0"] for line in whole)
    lost = lines(ROWS, [row.style * 0 + 255 for row in ROWS], classifier)
    assert all(line[4] == "0.00" for line in lost)


def test_grain_is_the_deviation_of_noise_in_flat_areas() -> None:
    drawn = np.full((64, 64, 3), 255, np.uint8)
    drawn[16:48, 16:48] = (40, 90, 160)
    assert grain(drawn, drawn) == 0
    gray = np.full_like(drawn, 128)
    assert grain(grained(gray, 5.0, np.random.default_rng(0)), gray) == pytest.approx(5, rel=0.1)
    edges = drawn.copy()
    edges[16:18, 16:48] = 0  # what differs at the edges alone is no grain
    assert grain(drawn, edges) == 0
    assert np.isnan(grain(drawn, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))


class OnlyClean(StyleClassifier):
    """Tells the style of an answer as it was drawn, and of nothing else."""

    def __init__(self) -> None:
        self.drawn = {row.truth.tobytes(): row.target for row in ROWS if row.truth is not None}

    def predict(self, images: Sequence[ImageArray]) -> list[str]:
        return [self.drawn.get(image.tobytes(), "?") for image in images]


def test_a_line_for_each_grain() -> None:
    clean, *noisy = grain_lines(ROWS, OnlyClean())
    targets = len({row.target for row in ROWS})
    assert clean == ["0", *["1.00"] * targets]
    assert noisy == [[str(levels), *["0.00"] * targets] for levels in GRAINS]
