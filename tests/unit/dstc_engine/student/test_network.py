from __future__ import annotations

import pytest
import torch

from dstc_engine.errors import WeightsError
from dstc_engine.student.network import StudentConfig, StudentNetwork, usual_multipliers
from tests.unit.dstc_engine.student import tiny_student


def _config(**changes: object) -> StudentConfig:
    return StudentConfig.of({"image_size": 16, "features": 5, "looks": 2, **changes}, "here")


def test_an_untrained_student_gives_the_content_back() -> None:
    network = StudentNetwork(_config(multipliers=[1, 2]))
    contents, looks = torch.randn(3, 3, 16, 16), torch.randn(3, 5)
    assert torch.equal(network(contents, looks), contents)


def test_looks_change_the_image_and_neighbors_do_not() -> None:
    network = tiny_student.network(looks=2, features=5)
    contents, looks = torch.randn(4, 3, 16, 16), torch.randn(4, 5)
    images = network(contents, looks)
    others = torch.randn(4, 3, 16, 16)
    others[2] = contents[2]
    other_looks = torch.randn(4, 5)
    other_looks[2] = looks[2]
    assert torch.equal(network(others, other_looks)[2], images[2])
    assert not torch.allclose(network(contents, looks.flip(0)), images)


def test_levels_go_down_to_about_sixteen_pixels() -> None:
    assert usual_multipliers(64) == (1, 2, 4)
    assert usual_multipliers(256) == (1, 2, 4, 4, 4)
    assert usual_multipliers(16) == (1, 2)
    for size in (16, 64, 96, 256, 512):
        assert _config(image_size=size, multipliers=usual_multipliers(size))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 12}, "channels is 12; expected a multiple of 8"),
        ({"image_size": 18}, "image_size is 18; expected a multiple of 4 for 3 levels"),
        ({"looks": 0}, "expected whole numbers above 0"),
        ({"embedding": "wide"}, "here: "),
        ({"depth": 3}, "here: .*depth"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        _config(**changes)
