"""CLIP embeddings: unit length, the centre of the image, the mean of 79 templates."""

from __future__ import annotations

import torch

from dstc_engine.encoders.clip import TEMPLATES
from tests.unit.dstc_engine import tiny


def test_templates_are_the_official_list() -> None:
    filled = [template("fox") for template in TEMPLATES]
    assert len(set(filled)) == 79
    assert "a photo of a fox." in filled and "a photo of many fox." not in filled


def test_embeddings_are_unit_and_differ(generator: torch.Generator) -> None:
    clip = tiny.make_clip()
    with torch.no_grad():
        crops = clip.embed_crops(torch.randn(4, 3, 16, 16, generator=generator))
        texts = torch.stack([clip.embed_text(t) for t in ("a fox", "an owl")])
    assert crops.shape == (4, 16) and texts.shape == (2, 16)
    torch.testing.assert_close(crops.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    assert (texts[0] - texts[1]).norm() > 1e-3


def test_a_text_is_the_mean_over_the_templates() -> None:
    clip = tiny.make_clip()
    with torch.no_grad():
        single = [clip.model.encode_text(tiny.tokenize([t("fox")]))[0] for t in TEMPLATES]
        mean = torch.stack(single).mean(0)
        torch.testing.assert_close(clip.embed_text("fox"), mean / mean.norm())


def test_only_the_center_square_of_a_image_is_seen(generator: torch.Generator) -> None:
    clip = tiny.make_clip()
    wide = torch.rand(1, 3, 16, 40, generator=generator)
    with torch.no_grad():
        embedded = clip.embed_image(wide)
        torch.testing.assert_close(embedded, clip.embed_crops(wide[..., 12:28]))
        wide[..., :12] = wide[..., 28:] = -1
        assert torch.equal(clip.embed_image(wide), embedded)


def test_images_are_normalized_channel_by_channel() -> None:
    clip = tiny.make_clip()
    mean_color = torch.tensor(tiny.MEAN)[:, None, None] * 2 - 1
    with torch.no_grad():
        ours = clip.embed_crops(mean_color.expand(1, 3, 16, 16))
        zeros = clip.model.encode_image(torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(ours, zeros / zeros.norm(), atol=1e-5, rtol=1e-5)
