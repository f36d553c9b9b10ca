from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dstc_engine.image import decode
from dstc_engine.presets import get_preset
from dstc_engine.student.distances import DISTANCES
from dstc_engine.student.encoders import load_encoders
from dstc_engine.student.gates import distances, failed, learn_limits, sharpness
from dstc_engine.student.looks import Looks
from dstc_engine.tensors import to_tensor
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import asking, encoders

DEMO = Path(__file__).parents[4] / "manifests" / "demo"


def test_distances_are_of_the_look_that_was_asked_for() -> None:
    seen = encoders()
    looks = Looks(seen, tiny.PRESET)
    asked = [asking(kind, 1) for kind in tiny.KINDS]
    described = torch.stack([looks.describe(looks.of(request), request) for request in asked])
    contents = torch.stack([to_tensor(tiny.image(n)) for n in range(3)])
    style = to_tensor(tiny.image(201))
    images = torch.stack([contents[0], style, style])
    found = distances(seen, contents, images, described)
    assert tuple(found) == DISTANCES
    # tiny.KINDS: text, image, both. The text's image is its content, the others' their style.
    assert float(found["structure"][0]) == pytest.approx(0, abs=1e-6)
    assert found["structure"][1] > 1e-4
    assert math.isnan(found["style_cls"][0]) and math.isnan(found["clip"][1])
    # The style itself: what is left is how far a glance at it is from the whole of it.
    _, cls = seen.dino.glance(images[1:], with_cls=True)
    assert cls is not None
    left = 1 - (torch.nn.functional.normalize(cls, dim=-1) * seen.appearance(images[1:])).sum(-1)
    assert found["style_cls"][1:].tolist() == pytest.approx(left.tolist(), abs=1e-5)
    assert math.isnan(found["style_cls"][0])
    assert found["clip"][0] > 0 and found["clip"][2] > 0
    assert float(found["blur"][0]) == pytest.approx(1)


def test_a_glance_of_the_shipped_vit_knows_a_style_image_and_a_kept_shape() -> None:
    seen = load_encoders(get_preset("tiny64"), prompts=False)
    drawings = [to_tensor(decode(path.read_bytes())) for path in sorted(DEMO.glob("*/*.png"))[:12]]
    images = torch.stack(drawings)
    described = torch.zeros(len(images), 2 + seen.widths[0])
    described[:, 0] = 1
    described[:, 2:] = seen.appearance(images)
    same = distances(seen, images, images, described)
    other = distances(seen, images, images.roll(1, dims=0), described)
    # Whole and thinned, the class tokens of one image are nearer than those of any two.
    assert same["style_cls"].max() < 0.5 * other["style_cls"].min()
    assert same["structure"].max() < 1e-6 < 0.005 < other["structure"].min()


def test_no_network_is_asked_for_what_no_look_has() -> None:
    seen = encoders()
    looks = Looks(seen, tiny.PRESET)
    contents = torch.stack([to_tensor(tiny.image(n)) for n in range(2)])
    images = torch.stack([to_tensor(tiny.image(n)) for n in range(5, 7)])
    for kind, asked in (("text", (False, True)), ("image", (True, False))):
        request = asking(kind, 1)
        described = looks.describe(looks.of(request), request).expand(2, -1)
        whole = distances(seen, contents, images, described)
        cheap = distances(seen, contents, images, described, *asked)
        for name in DISTANCES:
            torch.testing.assert_close(cheap[name], whole[name], rtol=0, atol=0, equal_nan=True)


def test_a_blurred_image_is_said_to_be_blurred() -> None:
    images = torch.stack([to_tensor(tiny.image(n)) for n in range(2)])
    blurred = torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    assert (sharpness(blurred) < 0.7 * sharpness(images)).all()
    assert sharpness(torch.full((1, 3, 4, 4), 0.3)).item() == 0


def test_a_step_of_one_level_between_neighbors_is_a_sharpness_of_one() -> None:
    ramp = torch.arange(8.0)[None, None, None].expand(1, 3, 8, 8) / 127.5 - 1
    assert sharpness(ramp).item() == pytest.approx(1, abs=1e-4)


def test_limits_are_a_tenth_above_what_one_result_in_twenty_exceeds() -> None:
    values = np.linspace(0, 1, 101).tolist()
    limits = learn_limits({"structure": [*values, math.nan], "clip": [math.nan] * 3})
    assert limits == {"structure": pytest.approx(0.95 * 1.1)}


def test_gates_that_have_nothing_to_judge_pass() -> None:
    limits = {"structure": 0.1, "style_cls": 0.5, "blur": 1.0}
    found = {"structure": 0.2, "style_cls": math.nan, "clip": 9.0, "blur": 1.5}
    assert failed(found, limits) == ("blur", "structure")
