"""Networks so small that a training step takes milliseconds.

The encoders see images of 16 pixels, the prior of 8: its sample sheet alone is 900 denoisings.
"""

from __future__ import annotations

from dstc_engine.diffusion.unet import UNetConfig
from dstc_engine.training.prior import PriorTraining
from tiny64.clip import CLIPConfig, CLIPTraining
from tiny64.vit import ViTConfig, ViTTraining

SIZE = 16
PRIOR_SIZE = 8

UNET = UNetConfig(
    image_size=PRIOR_SIZE,
    channels=32,
    multipliers=(1.0,),
    res_blocks=1,
    attention_resolutions=(),
    head_channels=32,
)
PRIOR = PriorTraining(steps=4, batch=4)

VIT = ViTConfig(img_size=SIZE, patch_size=4, embed_dim=16, depth=2, num_heads=2)
VIT_TRAINING = ViTTraining(steps=4, batch=4, positions=6, window=2, move=1)

CLIP = CLIPConfig(
    embed_dim=16,
    vision_cfg={"image_size": SIZE, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8},
    text_cfg={"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
)
CLIP_TRAINING = CLIPTraining(steps=4, batch=8)
