"""The ViT's keys and class token, CLIP's embeddings and target."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.encoders.arcface import ArcFace
from dstc_engine.encoders.clip import TEMPLATES, Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.losses.clip_direction import clip_target
from dstc_engine.losses.structure import self_similarity
from tests.parity.conftest import FORWARD, relative_error


def test_vit_input(dino: Dino, source: Tensor, goldens: dict[str, Tensor]) -> None:
    assert relative_error(dino.prepare(source), goldens["vit/input_224"]) < FORWARD


def test_vit_features(dino: Dino, goldens: dict[str, Tensor]) -> None:
    seen = dino.features(goldens["vit/input_224"])
    golden_keys = goldens["vit/keys_h_t_d"].permute(1, 0, 2).flatten(1)
    assert relative_error(seen.keys[0], golden_keys) < FORWARD
    assert relative_error(seen.cls[0], goldens["vit/cls"]) < FORWARD
    similarity = self_similarity(seen.keys)
    assert relative_error(similarity, goldens["vit/keys_self_similarity"]) < FORWARD


def test_clip_embeddings(
    clip: Clip, source: Tensor, config: dict[str, Any], goldens: dict[str, Tensor]
) -> None:
    assert len(TEMPLATES) == 79
    text = clip.embed_text(config["prompt"])
    assert relative_error(text[None], goldens["clip/text_target"]) < FORWARD
    source_text = clip.embed_text(config["source_prompt"])
    assert relative_error(source_text[None], goldens["clip/text_source"]) < FORWARD
    image = clip.embed_image(source)[0]
    assert relative_error(image, F.normalize(goldens["clip/image_embedding"], dim=-1)) < FORWARD


def test_clip_target(goldens: dict[str, Tensor]) -> None:
    target = clip_target(
        goldens["clip/text_target"],
        goldens["clip/text_source"],
        goldens["clip/image_embedding"],
        (1.0, 0.4, 0.2),
    )
    assert relative_error(target, goldens["clip/target"]) < FORWARD


def test_layout_of_the_published_face_network(layouts: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = ArcFace()
    ours = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == layouts["model_ir_se50"]["tensors"]
