from __future__ import annotations

import numpy as np
import pytest
import torch

from dstc_engine.errors import UserError
from dstc_engine.student.pairs import PairsBuilder, is_val
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import asking

SHARE = 0.3


def _builder(rows: int, looks: int = 2) -> PairsBuilder:
    builder = PairsBuilder(tiny.PRESET, SHARE)
    for n in range(rows):
        kind, look = ("image", n % looks) if n % looks else ("text", 0)
        builder.add(asking(kind, look, content=n), tiny.image(n), style=f"{look}.png")
    return builder


def test_pairs_keep_what_belongs_together() -> None:
    pairs = _builder(30).build(least_rows=10)
    assert len(pairs) == 30
    contents, results = pairs.batch(torch.tensor([4, 7]))
    assert contents.shape == results.shape == (2, 3, tiny.SIZE, tiny.SIZE)
    assert torch.equal(((contents[0] + 1) * 127.5).round().byte(), pairs.contents[4])
    assert np.array_equal(pairs.results[7].permute(1, 2, 0).numpy(), tiny.image(7))
    assert [e.look.prompt for e in pairs.examples] == ["look 0", None]
    assert pairs.looks.tolist() == [n % 2 for n in range(30)]


def test_a_content_is_on_one_side_whatever_is_asked_of_it() -> None:
    builder = PairsBuilder(tiny.PRESET, SHARE)
    for n in range(40):
        builder.add(asking("text", n % 2, content=n // 2), tiny.image(n), style=None)
    pairs = builder.build(least_rows=5)
    assert torch.equal(pairs.in_val[::2], pairs.in_val[1::2])
    train, val = pairs.rows(val=False).tolist(), pairs.rows(val=True).tolist()
    assert sorted(train + val) == list(range(40)) and 0 < len(val) < 40
    assert pairs.rows(val=True, look=1).tolist() == [row for row in val if row % 2]


def test_the_share_of_val_is_about_what_was_asked_for() -> None:
    found = [is_val(tiny.image(n), 0.2) for n in range(300)]
    assert 0.12 < sum(found) / 300 < 0.28


def test_equal_style_images_of_two_names_are_one_look() -> None:
    builder = PairsBuilder(tiny.PRESET, SHARE)
    for n in range(20):
        builder.add(asking("image", 0, content=n), tiny.image(n), style=f"{n}.png")
    assert len(builder.build(least_rows=5).examples) == 1


def test_too_few_rows_of_a_look_are_refused_by_its_name() -> None:
    with pytest.raises(
        UserError, match=r"1 of 2 looks have too few rows: style 1\.png: 4 rows .*Expected 6"
    ):
        builder = _builder(20, looks=1)
        for n in range(4):
            builder.add(asking("image", 1, content=50 + n), tiny.image(n), style="1.png")
        builder.build(least_rows=6)
    with pytest.raises(UserError, match="no pair"):
        PairsBuilder(tiny.PRESET, SHARE).build(least_rows=1)
