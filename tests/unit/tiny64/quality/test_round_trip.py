"""What the prior alone makes of the right answer."""

from __future__ import annotations

import numpy as np

from dstc_engine.metrics.style_classifier import StyleClassifier
from tests.unit.dstc_engine import tiny
from tests.unit.tiny64.quality.test_emoji import STYLES, data, drawing
from tiny64.quality.round_trip import lines, round_trips
from tiny64.quality.rows import benchmark_rows

ROWS = [row for row in benchmark_rows(data(), 4) if row.task == "image, aligned"]


def test_answers_go_through_the_prior_and_no_guide_has_a_say() -> None:
    images = round_trips(tiny.make_models(), tiny.PRESET, ROWS, slots=2)
    assert [image.shape for image in images] == [(tiny.SIZE, tiny.SIZE, 3)] * len(ROWS)
    assert len({image.tobytes() for image in images}) == len(ROWS)
    # Other guides, the same prior: the same images.
    blind = tiny.make_models()
    blind.dino, blind.clips = None, ()
    again = round_trips(blind, tiny.PRESET, ROWS, slots=2)
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


def test_a_line_tells_what_was_kept() -> None:
    drawn = [(drawing(seed, style), style) for seed in range(12) for style in STYLES]
    classifier = StyleClassifier([image for image, _ in drawn], [style for _, style in drawn])
    answers = [row.truth for row in ROWS if row.truth is not None]
    whole = lines(ROWS, answers, classifier)
    assert [line[0] for line in whole] == [row.target for row in ROWS]
    assert all(line[3] == line[2] and line[4] == "1.00" for line in whole)
    lost = lines(ROWS, [row.style * 0 + 255 for row in ROWS], classifier)
    assert all(line[4] == "0.00" for line in lost)
