from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dstc_engine.request import TranslationRequest
from dstc_engine.student.looks import Looks, nearest, reaches
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import asking, encoders

WIDTH = tiny.VIT["embed_dim"]


@pytest.fixture(scope="module")
def looks() -> Looks:
    return Looks(encoders(), tiny.PRESET)


def _describe(looks: Looks, request: TranslationRequest) -> Tensor:
    return looks.describe(looks.of(request), request)


def test_rows_that_ask_for_the_same_share_a_look(looks: Looks) -> None:
    one, other = asking("both", 1, content=1), asking("both", 1, content=2, source_prompt="a cat")
    assert looks.of(one) == looks.of(other)
    assert len({looks.of(asking(kind, n)).key for kind in tiny.KINDS for n in (1, 2)}) == 6


def test_a_style_image_is_known_by_its_pixels(looks: Looks) -> None:
    style = tiny.image(1)
    assert looks.of(asking("image", 0, style=style)) == looks.of(
        asking("image", 0, style=style.copy())
    )


def test_a_look_is_described_by_the_parts_it_has(looks: Looks) -> None:
    image, text, both = (_describe(looks, asking(kind, 1)) for kind in ("image", "text", "both"))
    assert looks.features == len(both) == 2 + WIDTH + 16
    style, prompt = slice(2, 2 + WIDTH), slice(2 + WIDTH, None)
    assert image[:2].tolist() == [1, 0] and not image[prompt].any()
    assert text[:2].tolist() == [0, 1] and not text[style].any()
    assert torch.equal(both, image + text)
    for part in (both[style], both[prompt]):
        assert float(part.norm()) == pytest.approx(1, abs=1e-5)


def test_a_look_may_lie_as_far_as_the_nearest_two_of_its_kind() -> None:
    known = torch.tensor(
        [[1.0, 0, 0, 0], [1, 0, 3, 4], [1, 0, 0, 7], [0, 1, 1, 1], [1, 1, 9, 9], [1, 1, 9, 8]]
    )
    assert reaches(known).tolist() == pytest.approx([18**0.5] * 3 + [0, 1, 1])
    assert nearest(torch.tensor([1.0, 0, 3, 3]), known) == (1, 1.0)
    # The nearest of all is of another kind.
    assert nearest(torch.tensor([0.0, 1, 3, 4]), known)[0] == 3
    assert nearest(torch.tensor([0.0, 0, 3, 4]), known)[1] == float("inf")
