"""The emoji benchmark: its rows, baselines, judges and intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dstc_engine.image import encode_png
from dstc_engine.metrics.segmentation import silhouette
from dstc_engine.metrics.style_classifier import StyleClassifier, features
from dstc_engine.presets import TINY64, TINY64_VARIANCE, Preset, with_fields
from dstc_engine.request import ImageArray
from tests.unit.dstc_engine import tiny
from tiny64.captions import STYLE_PHRASES
from tiny64.quality.baselines import BASELINES, colors, statistics
from tiny64.quality.images import image_path, read_images, translate_missing
from tiny64.quality.measures import MEASURES, measure, overlap
from tiny64.quality.rows import ALIGNED, TASKS, benchmark_rows
from tiny64.quality.ways import ABLATIONS, WHOLE, is_tried

STYLES = sorted(STYLE_PHRASES)


def drawing(seed: int, style: str = "noto", size: int = 64) -> ImageArray:
    """A box on white; each style has a palette and outline of its own."""
    rng = np.random.default_rng([seed, STYLES.index(style)])
    image = np.full((size, size, 3), 255, np.uint8)
    top, left = rng.integers(4, size // 4, 2)
    box = image[top : -top or None, left : -left or None]
    box[:] = np.array([30, 60, 90]) + 25 * STYLES.index(style) + rng.integers(0, 12, box.shape)
    if style == "openmoji":
        box[:3] = box[-3:] = box[:, :3] = box[:, -3:] = 0
    return image


def data(split: str = "test", subjects: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "subject": f"s{n}",
            "name": f"thing {n}",
            "style": style,
            "split": split,
            "png": encode_png(drawing(n, style)),
        }
        for n in range(subjects)
        for style in STYLES
    ]


# -- rows ----------------------------------------------------------------------------------------


def test_rows_of_each_task() -> None:
    rows = benchmark_rows(data() + data("train"), 8)
    assert [row.task for row in rows] == [task for task in TASKS for _ in range(8)]
    assert len({row.request.id for row in rows}) == len(rows) == 32
    both_ways = {*ALIGNED, *((b, a) for a, b in ALIGNED)}
    for row in rows:
        aligned = "aligned" in row.task
        assert ((row.own, row.target) in both_ways) == aligned == (row.truth is not None)
        is_text = row.task.startswith("text")
        assert (row.request.style is None, row.request.prompt is not None) == (is_text, is_text)
        if is_text:
            assert str(row.request.prompt).endswith(STYLE_PHRASES[row.target])
            assert str(row.request.source_prompt).endswith(STYLE_PHRASES[row.own])
        if row.truth is not None:
            assert not np.array_equal(row.truth, row.style), "the style image shows the answer"
    again = benchmark_rows(data() + data("train"), 8)
    assert [r.request.seed for r in rows] == [r.request.seed for r in again]
    assert all(np.array_equal(a.style, b.style) for a, b in zip(rows, again, strict=True))
    few = {r.request.id: r.request.seed for r in benchmark_rows(data() + data("train"), 3)}
    assert few.items() <= {r.request.id: r.request.seed for r in rows}.items()


# -- baselines -----------------------------------------------------------------------------------


def test_statistics_transfer_takes_over_mean_and_spread() -> None:
    content, style = tiny.image(1, 64, 64), tiny.image(2, 64, 64) // 2 + 40
    moved = statistics(content, style).astype(float)
    np.testing.assert_allclose(moved.mean(axis=(0, 1)), style.mean(axis=(0, 1)), atol=2)
    np.testing.assert_allclose(moved.std(axis=(0, 1)), style.std(axis=(0, 1)), rtol=0.15)
    # Shapes are the content's: what was brighter than its surroundings still is.
    assert np.corrcoef(moved.ravel(), content.astype(float).ravel())[0, 1] > 0.8
    assert np.abs(statistics(content, content).astype(int) - content).max() <= 1
    assert np.abs(colors(content, content).astype(int) - content).max() <= 1


# -- judges --------------------------------------------------------------------------------------


def test_silhouettes_are_filled_and_overlap_by_area() -> None:
    ring = np.full((64, 64, 3), 255, np.uint8)
    ring[16:48, 16:48] = 0
    ring[20:44, 20:44] = 255  # white inside belongs to the drawing
    assert silhouette(ring).sum() == 32 * 32
    moved = np.full((64, 64, 3), 255, np.uint8)
    moved[16:48, 32:64] = 100
    assert overlap(ring, moved) == pytest.approx((32 * 16) / (2 * 32 * 32 - 32 * 16))
    assert overlap(ring, ring) == 1.0
    white = np.full((64, 64, 3), 255, np.uint8)
    assert overlap(white, white) == 1.0 and overlap(white, ring) == 0.0


def test_the_classifier_tells_styles_it_has_seen_on_other_subjects() -> None:
    train = [(drawing(n, style), style) for n in range(20) for style in STYLES]
    classifier = StyleClassifier(*zip(*train, strict=True))
    other = [(drawing(n, style), style) for n in range(100, 110) for style in STYLES]
    predicted = classifier.predict([image for image, _ in other])
    assert np.mean([a == b for a, (_, b) in zip(predicted, other, strict=True)]) > 0.9
    shares = classifier.probabilities([other[0][0]])
    assert shares.shape == (1, 6) and shares.sum() == pytest.approx(1.0)


def test_the_classifier_does_not_see_where_the_drawing_stands() -> None:
    image = drawing(1)
    moved = np.roll(image, (2, -3), axis=(0, 1))
    np.testing.assert_allclose(features(moved), features(image), atol=0.02)


def test_copies_are_measured_as_what_they_are() -> None:
    rows = benchmark_rows(data(), 4)
    train = [(drawing(n, style), style) for n in range(20) for style in STYLES]
    classifier = StyleClassifier(*zip(*train, strict=True))
    dino = tiny.make_models().dino
    assert dino is not None
    dino.vit.set_input_size(img_size=64)
    dino.size = 64
    found = {
        name: measure(rows, [make(r.request.content, r.style) for r in rows], classifier, dino)
        for name, make in BASELINES.items()
    }
    assert set(found["colours alone"]) == set(MEASURES)
    content, style = found["copy of the content"], found["copy of the style"]
    assert (content["silhouette"] == 1).all() and (content["structure"] < 1e-9).all()
    assert content["style"].mean() < 0.2 < 0.8 < style["style"].mean()
    assert (style["both"] <= style["style"]).all() and style["structure"].mean() > 0
    has_truth = np.array([row.truth is not None for row in rows])
    assert np.isnan(content["PSNR"][~has_truth]).all() and (content["PSNR"][has_truth] > 0).all()


# -- ways ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "the_same"),
    [(TINY64, "without resampling"), (TINY64_VARIANCE, "with resampling")],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_ablation_is_a_preset_of_its_own(preset: Preset, the_same: str) -> None:
    made = {way: with_fields(preset, fields) for way, fields in ABLATIONS.items()}
    assert made.pop(the_same) == preset, "it is left out"
    assert len(set(made.values())) == len(made)


def test_parts_are_left_out_where_they_do_anything() -> None:
    rows = benchmark_rows(data(), 4)
    tried = {way: [r for r in rows if is_tried(way, r, 2)] for way in ABLATIONS}
    assert tried[WHOLE] == rows
    assert [r.request.id for r in tried["without contrast"]] == [
        f"{task}-aligned-00{n}" for task in ("image", "text") for n in range(2)
    ]
    assert {r.task for r in tried["without style_cls"]} == {"image, aligned"}
    assert {r.task for r in tried["without clip"]} == {"text, aligned"}


def test_images_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    rows = benchmark_rows(data(), 1)
    models = tiny.make_models()
    ways: dict[str, dict[str, str]] = {"ours": {}, "short": {"resample": "1"}}
    preset = tiny.PRESET
    # The tiny networks look at 16 pixels, to which contents are fitted.
    translate_missing(models, preset, ways, rows, tmp_path, slots=2)
    paths = [image_path(tmp_path, way, row) for way in ways for row in rows]
    before = {path: path.stat().st_mtime_ns for path in paths}
    paths[1].unlink()
    translate_missing(models, preset, ways, rows, tmp_path, slots=2)
    after = {path: path.stat().st_mtime_ns for path in paths}
    assert {path for path in paths if before[path] != after[path]} == {paths[1]}
    assert len(read_images("ours", rows, tmp_path)) == len(rows)
    assert np.array_equal(
        read_images("copy of the content", rows, tmp_path)[0], rows[0].request.content
    )
