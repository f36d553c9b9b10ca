"""Flags of checkpoints: values or text, and names that are nearly right."""

from __future__ import annotations

import pytest

from dstc_engine.diffusion.adm_flags import FLAG_NAMES, Flags
from dstc_engine.errors import WeightsError


def test_values_and_their_text_read_alike() -> None:
    for flags in (
        {"num_heads": 3, "dropout": 0.1, "class_cond": True, "attention_resolutions": [32, 16]},
        {
            "num_heads": " 3",
            "dropout": "0.1",
            "class_cond": "True",
            "attention_resolutions": "32, 16",
        },
    ):
        read = Flags(flags)
        assert read.integer("num_heads") == 3 and read.number("dropout", 0.0) == 0.1
        assert read.switch("class_cond", False) is True
        assert read.listed("attention_resolutions", int) == (32, 16)


def test_false_as_text_is_false() -> None:
    assert Flags({"class_cond": "False"}).switch("class_cond", True) is False


def test_what_is_not_given_has_the_default() -> None:
    read = Flags({"vit": {"patch": 8}})
    assert read.integer("num_heads", 4) == 4 and read.text("noise_schedule", "linear") == "linear"
    assert read.listed("channel_mult", float, "") == ()
    for missing in (
        lambda: read.integer("image_size"),
        lambda: read.listed("attention_resolutions", int),
    ):
        with pytest.raises(
            WeightsError, match="flag (image_size|attention_resolutions) is missing"
        ):
            missing()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_head_chanels", "num_head_channels"),
        ("use_new_attention_ordr", "use_new_attention_order"),
        ("learn_sigmas", "learn_sigma"),
        ("rescale_timestep", "rescale_timesteps"),
    ],
)
def test_names_that_are_nearly_right_are_refused(name: str, meant: str) -> None:
    with pytest.raises(WeightsError, match=f"flag '{name}' is unknown; did you mean {meant}"):
        Flags({name: 1})


def test_settings_of_other_things_are_left_alone() -> None:
    others = {"vit", "clip", "model_path", "batch_size", "classifier_scale", "use_ddim"}
    assert not others & FLAG_NAMES
    Flags(dict.fromkeys(others, 1))


def test_values_of_another_kind() -> None:
    read = Flags({"num_heads": "many", "class_cond": 1, "channel_mult": "1,x", "dropout": "no"})
    with pytest.raises(WeightsError, match="flag num_heads is 'many'; expected a whole number"):
        read.integer("num_heads")
    with pytest.raises(WeightsError, match="flag class_cond is 1; expected true or false"):
        read.switch("class_cond", False)
    with pytest.raises(WeightsError, match="flag channel_mult is '1,x'; expected int values"):
        read.listed("channel_mult", int)
    with pytest.raises(WeightsError, match="flag dropout is 'no'; expected a number"):
        read.number("dropout", 0.0)


def test_what_must_not_be_given() -> None:
    for fine in ({}, {"predict_xstart": False}, {"predict_xstart": "False", "large_size": None}):
        Flags(fine)
    for given in (True, "True", 64):
        with pytest.raises(WeightsError, match="flag predict_xstart is .*; expected none: the net"):
            Flags({"predict_xstart": given})
