"""Shapes of UNets: read off flags, and refused when none can be built."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dstc_engine.diffusion.unet import UNet
from dstc_engine.diffusion.unet_config import DEFAULT_MULTIPLIERS, UNetConfig
from dstc_engine.errors import WeightsError
from tests.unit.dstc_engine import tiny

FLAGS: dict[str, object] = dict(
    image_size=256, num_channels=128, num_res_blocks=1, attention_resolutions="16,8"
)
# As the README of guided-diffusion gives them for its 64-px and 128-px models.
ADM_64 = dict(
    attention_resolutions="32,16,8",
    class_cond="True",
    diffusion_steps="1000",
    dropout="0.1",
    image_size="64",
    learn_sigma="True",
    noise_schedule="cosine",
    num_channels="192",
    num_head_channels="64",
    num_res_blocks="3",
    resblock_updown="True",
    use_new_attention_order="True",
    use_fp16="True",
    use_scale_shift_norm="True",
)
ADM_128 = dict(
    attention_resolutions="32,16,8",
    class_cond="True",
    diffusion_steps="1000",
    image_size="128",
    learn_sigma="True",
    noise_schedule="linear",
    num_channels="256",
    num_heads="4",
    num_res_blocks="2",
    resblock_updown="True",
    use_fp16="True",
    use_scale_shift_norm="True",
)


def test_flags_that_are_not_given_have_the_originals_defaults() -> None:
    config = UNetConfig.from_flags(FLAGS)
    assert config == UNetConfig(
        image_size=256,
        channels=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        res_blocks=1,
        attention_resolutions=(16, 8),
        head_channels=-1,
        heads=4,
        heads_upsample=-1,
        classes=None,
        dropout=0.0,
        scale_shift_norm=True,
        resblock_updown=False,
        new_attention_order=False,
        learn_sigma=False,
    )


def test_every_flag_reaches_its_setting() -> None:
    flags: dict[str, object] = FLAGS | {
        "channel_mult": "1,2,0.5",
        "num_heads": 2,
        "num_heads_upsample": 8,
        "class_cond": True,
        "dropout": 0.3,
        "use_scale_shift_norm": False,
        "resblock_updown": True,
        "use_new_attention_order": True,
        "learn_sigma": True,
    }
    config = UNetConfig.from_flags(flags)
    assert config.multipliers == (1, 2, 0.5) and config.widths == (128, 256, 64)
    assert (config.heads, config.heads_upsample, config.head_channels) == (2, 8, -1)
    assert (config.classes, config.dropout) == (1000, 0.3)
    assert not config.scale_shift_norm and config.resblock_updown
    assert config.new_attention_order and config.learn_sigma
    assert UNetConfig.from_flags(flags | {"num_head_channels": 32}).head_channels == 32


@pytest.mark.parametrize("size", DEFAULT_MULTIPLIERS)
def test_each_published_size_has_its_multipliers(size: int) -> None:
    config = UNetConfig.from_flags(FLAGS | {"image_size": size, "attention_resolutions": "16"})
    assert config.multipliers == DEFAULT_MULTIPLIERS[size]
    assert size % config.side_factor == 0


def test_the_number_of_classes_is_given_or_read_off_the_checkpoint() -> None:
    conditional = FLAGS | {"class_cond": True}
    assert UNetConfig.from_flags(conditional).classes == 1000
    assert UNetConfig.from_flags(conditional, classes=37).classes == 37
    assert UNetConfig.from_flags(conditional | {"num_classes": 12}).classes == 12
    assert UNetConfig.from_flags(FLAGS, classes=37).classes is None


@pytest.mark.parametrize(("flags", "millions"), [(ADM_64, 296), (ADM_128, 422)])
def test_published_models_have_the_parameters_they_are_published_with(
    flags: dict[str, object], millions: int
) -> None:
    # The model sizes in Dhariwal & Nichol's (2021) table of hyperparameters.
    with torch.device("meta"):
        network = UNet(UNetConfig.from_flags(flags))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.6)


def test_heads() -> None:
    by_width = dataclasses.replace(tiny.UNET, head_channels=16, heads_upsample=4)
    assert by_width.heads_of(64, up=False) == by_width.heads_of(64, up=True) == 4
    by_count = dataclasses.replace(tiny.UNET, head_channels=-1, heads=2, heads_upsample=8)
    assert (by_count.heads_of(64, up=False), by_count.heads_of(64, up=True)) == (2, 8)
    assert dataclasses.replace(by_count, heads_upsample=-1).heads_of(64, up=True) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 96}, "flag channel_mult is empty; image_size 96 has no default"),
        ({"predict_xstart": True}, "flag predict_xstart is True; expected none: the network must"),
        ({"large_size": 256}, "flag large_size is 256; expected none: upsamplers also need"),
        ({"num_head_chanels": 64}, "did you mean num_head_channels"),
        ({"num_channels": "wide"}, "flag num_channels is 'wide'; expected a whole number"),
        ({"attention_resolutions": "16.5"}, "flag attention_resolutions is '16.5'; expected int"),
    ],
)
def test_flags_that_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        UNetConfig.from_flags(FLAGS | flags)


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_that_must_be_given(flag: str) -> None:
    with pytest.raises(WeightsError, match=f"flag {flag} is missing"):
        UNetConfig.from_flags({name: value for name, value in FLAGS.items() if name != flag})


@pytest.mark.parametrize("flag", ["use_kl", "rescale_learned_sigmas", "use_fp16", "use_checkpoint"])
def test_flags_of_training_alone_are_taken(flag: str) -> None:
    assert UNetConfig.from_flags(FLAGS | {flag: True}) == UNetConfig.from_flags(FLAGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multipliers": ()}, "multipliers is (); expected one or more"),
        ({"image_size": 17}, "image_size is 17; expected a multiple of 2 for 2 levels"),
        ({"image_size": 0}, "image_size is 0; expected a multiple of 2 for 2 levels"),
        ({"channels": 33}, "channels is 33; expected an even number"),
        ({"channels": 48}, "expected widths that are multiples of 32"),
        ({"res_blocks": 0}, "res_blocks is 0; expected 1 or more"),
        ({"attention_resolutions": (8, 0)}, "expected sides of 1-16 pixels"),
        ({"attention_resolutions": (32,)}, "expected sides of 1-16 pixels"),
        ({"classes": 0}, "classes is 0; expected 1 or more, or None"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 or more, below 1"),
        ({"head_channels": 24}, "head_channels is 24; expected a divisor of 32"),
        ({"head_channels": 0}, "head_channels is 0; expected a divisor of 32"),
        ({"head_channels": -1, "heads": 3}, "heads is 3; expected a divisor of 32"),
        ({"head_channels": -1, "heads_upsample": 5}, "heads_upsample is 5; expected -1 or a"),
    ],
)
def test_networks_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError) as caught:
        dataclasses.replace(tiny.UNET, **changes)
    assert message in str(caught.value)
