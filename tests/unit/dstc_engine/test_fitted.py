"""Requests with fitted images: the same results, from threads that have the time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dstc_engine.engine import Engine, translate
from dstc_engine.fitted import fitted
from dstc_engine.models import Models
from dstc_engine.request import Translation
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.tiny import PRESET, SIZE, assert_same, request, run


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_fitted_request_gives_the_same_image(fit: str, models: Models) -> None:
    preset = dataclasses.replace(PRESET, fit=fit, match_colours=True)
    mask = np.zeros((24, 36), np.uint8)
    mask[3:15, 4:22] = 255
    content, style = tiny.image(1, 24, 36), tiny.image(2, 9, 50)
    row = request("both", 8, content=content, style=style, mask=mask)
    small = fitted(row, preset)
    assert small.content.shape == (SIZE, SIZE, 3) and small.content_size == (24, 36)
    assert fitted(small, preset) is small
    assert_same(run(models, [row], preset, 1)[row.id], run(models, [small], preset, 1)[row.id])


def test_a_mask_whose_black_is_cropped_off_stays_a_mask() -> None:
    mask = np.full((16, 48), 255, np.uint8)
    mask[:, :8] = 0
    small = fitted(request("text", 1, content=tiny.image(1, 16, 48), mask=mask), PRESET)
    assert small.mask is not None and (small.mask == 255).all()


def test_an_image_is_finished_when_it_is_asked_for_and_once(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = __import__("dstc_engine.engine", fromlist=["finish_image"]).finish_image

    def finish(*given: object) -> object:
        calls.append("finish")
        return real(*given)

    monkeypatch.setattr("dstc_engine.engine.finish_image", finish)
    (ended,) = translate(Engine(models, PRESET, 1), [request("image", 1)])
    assert ended.status == "done" and calls == []
    image = ended.image
    assert image is not None and image.shape == (SIZE, SIZE, 3)
    assert ended.image is image and calls == ["finish"]


def test_translations_take_images_as_they_are() -> None:
    image = tiny.image(1, 4, 4)
    assert Translation("a", 0, "done", image).image is image
    assert Translation("a", 0, "failed", None).image is None
    assert dataclasses.replace(Translation("a", 0, "done", lambda: image), seed=1).image is image
    with pytest.raises(TypeError, match="image"):
        Translation("a", 0, "done")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Translation("a", 0, "done", image).image = image  # type: ignore[misc]
