"""Which networks a preset needs: one list for weights, loading, cost and benchmarks."""

from __future__ import annotations

from dstc_engine.losses import losses_of
from dstc_engine.presets import Preset

# The preset field that names a network, and the kind of its weights (`weights.record.Weights`).
NETWORKS = {"prior": "prior", "dino": "vit", "clips": "clip", "arcface": "face", "vgg": "vgg"}


def networks_of(preset: Preset) -> dict[str, tuple[str, ...]]:
    """The names of the networks that a preset needs, by preset field, in the order of NETWORKS.

    The prior always; any other where a loss that looks through it has a weight. `clips` may name
    several, the others name one.

        >>> networks_of(get_preset("tiny64"))
        {'prior': ('emoji64-prior',), 'dino': ('emoji64-vit',), 'clips': ('emoji64-clip',)}
    """
    needed = {}
    for field in NETWORKS:
        if field == "prior" or preset.guides(*losses_of(field)):
            names = getattr(preset, field)
            needed[field] = names if isinstance(names, tuple) else (names,)
    return needed
