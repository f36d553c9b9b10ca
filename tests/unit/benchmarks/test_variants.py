from __future__ import annotations

import pytest

from benchmarks.variants import Variant
from dstc_engine.presets import get_preset

PRESET = get_preset("tiny64")


def test_a_variant_is_read_from_its_words() -> None:
    variant = Variant.parse("bf16,weight_clip=5,clips=a;b", PRESET)
    assert variant.precision == "bf16"
    assert (variant.preset.weight_clip, variant.preset.clips) == (5.0, ("a", "b"))
    with pytest.raises(SystemExit, match="'fast' is no precision and no KEY=VALUE"):
        Variant.parse("fast", PRESET)


def test_variants_share_networks_that_are_the_same_and_no_others() -> None:
    exact = Variant("exact", PRESET, "fp32").networks
    assert Variant.parse("weight_structure=9", PRESET).networks == exact
    others = ["bf16", "prior=runs/prior.json", "dino=v.json", "clips=c.json", "weight_clip=0"]
    assert len({Variant.parse(words, PRESET).networks for words in others} | {exact}) == 6
