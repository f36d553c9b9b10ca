from __future__ import annotations

import torch

from tests.tiny_training import SIZE, VIT
from tiny64.vit import look


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_look_sees_what_timm_computes() -> None:
    vit = VIT.build().eval()
    images = torch.randn(2, 3, SIZE, SIZE, generator=_seeded())
    read: list[torch.Tensor] = []
    blocks = list(vit.blocks)
    blocks[-1].attn.qkv.register_forward_hook(lambda module, given, made: read.append(made))
    blocks[-1].register_forward_hook(lambda module, given, made: read.append(made))
    normed = vit.forward_features(images)
    qkv, tokens = read
    cls, keys = look(vit, images)
    width = VIT.embed_dim
    assert torch.allclose(keys, qkv[..., width : 2 * width], atol=1e-6)
    assert torch.allclose(cls, tokens[:, 0], atol=1e-6)
    assert torch.allclose(vit.norm(cls), normed[:, 0], atol=1e-6)


def test_a_window_is_placed_where_its_corner_says() -> None:
    vit = VIT.build().eval()
    images = torch.randn(1, 3, SIZE, SIZE, generator=_seeded())
    everything = look(vit, images, torch.tensor([[0, 0]]))
    assert torch.equal(everything[1], look(vit, images)[1])
    window = images[:, :, 4:12, 8:16]
    here, elsewhere = (look(vit, window, torch.tensor([corner]))[1] for corner in ([1, 2], [0, 0]))
    assert here.shape == (1, 1 + 4, VIT.embed_dim)
    assert not torch.allclose(here, elsewhere)


def test_a_token_that_is_kept_lies_where_it_lay() -> None:
    vit = VIT.build().eval()
    images = torch.randn(2, 3, SIZE, SIZE, generator=_seeded())
    kept = torch.tensor([[1, 5, 8], [0, 2, 15]])
    cls, keys = look(vit, images, kept=kept)
    assert keys.shape == (2, 1 + 3, VIT.embed_dim)
    gray = images.clone()
    gray[0, :, :4, :4] = 0.0  # token 0
    gray[1, :, 8:, :8] = 0.0  # tokens 8, 9, 12 and 13
    assert torch.equal(look(vit, gray, kept=kept)[0], cls)
    every = torch.arange(VIT.side**2).expand(2, -1)
    for here, there in zip(look(vit, images, kept=every), look(vit, images), strict=True):
        assert torch.allclose(here, there, atol=1e-6)
