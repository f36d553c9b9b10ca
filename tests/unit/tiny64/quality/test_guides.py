"""What a guide makes of the right answer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.dstc_engine import tiny
from tests.unit.tiny64.quality.test_emoji import data
from tiny64.quality.guides import SEEN, guide_losses, lines
from tiny64.quality.rows import BenchmarkRow, benchmark_rows


@pytest.fixture(scope="module")
def rows() -> list[BenchmarkRow]:
    return [row for row in benchmark_rows(data(), 4) if row.truth is not None]


def test_equal_images_have_equal_losses(rows: list[BenchmarkRow]) -> None:
    models = tiny.make_models()
    for row in (rows[0], rows[-1]):
        assert row.truth is not None
        as_answer = guide_losses(models, tiny.PRESET, row, row.truth)
        assert as_answer["result"] == pytest.approx(as_answer["answer"], abs=1e-6)
        as_content = guide_losses(models, tiny.PRESET, row, row.request.content)
        assert as_content["result"] == pytest.approx(as_content["content"], abs=1e-6)
        assert as_content["answer"] == pytest.approx(as_answer["answer"], abs=1e-6)


def test_the_style_image_is_at_no_distance_from_itself_and_clip_gives_minus_a_cosine(
    rows: list[BenchmarkRow],
) -> None:
    models = tiny.make_models()
    by_image, by_text = rows[0], rows[-1]
    assert guide_losses(models, tiny.PRESET, by_image, by_image.style)["result"] < 1e-6
    losses = guide_losses(models, tiny.PRESET, by_text, by_text.request.content)
    assert all(-1 <= loss <= 1 for loss in losses.values()) and tuple(losses) == SEEN


def test_rows_of_a_pair_and_task_share_a_line(rows: list[BenchmarkRow]) -> None:
    losses = [
        {"content": 0.5, "result": 0.2 if row.number else 0.1, "answer": 0.15} for row in rows
    ]
    table = lines(rows, losses, np.array([float(row.number == 0) for row in rows]))
    assert [line[:2] for line in table][:2] == [
        ["image: fluent_flat to fluent_3d", "1"],
        ["image: openmoji to openmoji_line", "1"],
    ]
    assert len(table) == len({(line[0]) for line in table}) == 8
    assert table[0][2:] == ["0.500", "0.100", "0.150", "1.00", "1.00", "0.00"]
    assert table[1][2:] == ["0.500", "0.200", "0.150", "0.00", "1.00", "1.00"]
