"""VGG-19 with random weights: features of another kind than DINO's, where none are published.

Convolutions that have learned nothing still tell textures and edges apart, and styles have been
transferred through them (He, Wang & Hopcroft 2016). It stands in for the trained VGG of the paper's
ablation, whose weights cannot be shipped, and is no measure of that one.
"""

from __future__ import annotations

import torch
from torch import nn

from dstc_engine.encoders.vgg import Vgg
from dstc_engine.precision import PRECISIONS, keep_products_in
from dstc_engine.presets import Preset


def random_vgg(preset: Preset, precision: str, seed: int = 0) -> Vgg:
    """The network, frozen; each layer keeps the mean square of what it is shown (He et al. 2015).

    Args:
        preset: names the layers that are read.
    """
    network = Vgg(preset.image_size, {*preset.vgg_content_layers, *preset.vgg_gram_layers})
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    network.eval().requires_grad_(False)
    if precision != "fp32":
        keep_products_in(PRECISIONS[precision], network)
    return network
