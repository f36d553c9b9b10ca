"""Networks of 16 pixels with random weights, images made on the spot, and ways to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import open_clip
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dstc_engine.crops import CropRange
from dstc_engine.diffusion.unet import UNet, UNetConfig
from dstc_engine.encoders.clip import Clip
from dstc_engine.encoders.dino import Dino
from dstc_engine.encoders.vgg import Vgg
from dstc_engine.engine import Engine, translate
from dstc_engine.models import Models
from dstc_engine.noise import Noise, RowNoise
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, Translation, TranslationRequest

SIZE = 16
# First index 4, twice: 6 guided steps a row. Weights are a tenth of the official ones: with those,
# networks that have learned nothing push each chain out of range, and clipped images hide faults.
PRESET = Preset(
    name="tiny",
    image_size=SIZE,
    dino_size=SIZE,
    clips=("tiny",),
    respacing="20",
    skip=15,
    resample=2,
    noise_mix=True,
    divergence_gate=1,
    crops=2,
    weight_structure=100.0,
    weight_contrast=20.0,
    weight_divergence=10.0,
    weight_style_cls=200.0,
    weight_style_pixels=300.0,
    weight_clip=200.0,
    weight_range=20.0,
)
STEPS = 6
KINDS = ("text", "image", "both")
CROPS = CropRange(count=PRESET.crops, rotation=10.0, scale=(0.8, 1.0), ratio=(0.9, 1.1), flip=0.5)

UNET = UNetConfig(
    image_size=SIZE,
    channels=32,
    multipliers=(1.0, 1.0),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=32,
)
VIT: dict[str, Any] = dict(img_size=SIZE, patch_size=4, embed_dim=32, depth=2, num_heads=2)
END_OF_TEXT = 257
CLIP_VISION: dict[str, Any] = dict(image_size=SIZE, patch_size=4, width=32, layers=1, head_width=16)
CLIP_TEXT: dict[str, Any] = dict(
    context_length=64, vocab_size=END_OF_TEXT + 1, width=32, heads=2, layers=1
)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.2)


def tokenize(texts: list[str]) -> Tensor:
    """Bytes as tokens; the end of text is the largest token, where open_clip looks for it."""
    rows = [[*text.encode()[:63], END_OF_TEXT] for text in texts]
    return torch.tensor([row + [0] * (64 - len(row)) for row in rows])


def awaken(network: nn.Module, seed: int) -> None:
    """Gives every parameter that is initialised as zero random values: zeros would say nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.03 * torch.randn(parameter.shape, generator=generator))


def make_unet(seed: int = 1) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(UNET)
    awaken(network, seed)
    return network.eval()


def make_vit(seed: int = 2) -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VisionTransformer(**VIT, num_classes=0)
        # timm's initial weights of 0.02 make all tokens nearly alike.
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return network.eval()


def make_clip(seed: int = 3, width: int = 16) -> Clip:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = open_clip.CLIP(
            width,
            vision_cfg=open_clip.CLIPVisionCfg(**CLIP_VISION),
            text_cfg=open_clip.CLIPTextCfg(**CLIP_TEXT),
        )
    return Clip(network, tokenize, SIZE, MEAN, STD).eval()


def make_vgg(*layers: str, seed: int = 5) -> Vgg:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Vgg(SIZE, layers)
        # Default initial weights let activations die out from layer to layer.
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return network.eval()


def make_models(**changes: Any) -> Models:
    parts: dict[str, Any] = dict(
        unet=make_unet(), dino=Dino(make_vit(), SIZE, -1, MEAN, STD), clips=(make_clip(),)
    )
    return Models(**(parts | changes))


def image(seed: int, height: int = SIZE, width: int = SIZE) -> ImageArray:
    """Blocks of colour with some grain: neither flat nor pure noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 216, (height // 4 + 1, width // 4 + 1, 3))
    smooth = blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return (smooth + rng.integers(-20, 21, (height, width, 3))).astype(np.uint8)


def half_mask() -> ImageArray:
    """White on the left."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    return mask


def request(kind: str, seed: int = 0, name: str = "", **changes: Any) -> TranslationRequest:
    """A row of kind "text", "image" or "both"."""
    fields: dict[str, Any] = dict(
        id=name or f"{kind}-{seed}",
        content=image(100 + seed),
        seed=seed,
        prompt=f"a drawing of {seed}" if kind != "image" else None,
        source_prompt="a photo" if kind != "image" else None,
        style=image(200 + seed) if kind != "text" else None,
    )
    return TranslationRequest(**(fields | changes))


def run(
    models: Models,
    requests: Iterable[TranslationRequest],
    preset: Preset = PRESET,
    slots: int = 3,
    make_noise: Callable[[TranslationRequest], Noise] | None = None,
) -> dict[str, Translation]:
    """Translates requests; the results by id."""
    engine = Engine(models, preset, slots, make_noise=make_noise)
    return {t.id: t for t in translate(engine, requests)}


def noise_of(row: TranslationRequest) -> RowNoise:
    return RowNoise(row.seed, SIZE, CROPS)


class Loud(RowNoise):
    """Noise that is far too strong for the first chains of a row: they leave the range."""

    def __init__(self, row: TranslationRequest) -> None:
        super().__init__(row.seed, SIZE, CROPS)
        self.factor = 30.0

    def chain(self) -> Tensor:
        return self.factor * super().chain()


class Played:
    """Noise that is written down as it is drawn, or played back from what was."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self.chains: list[Tensor] = []
        self.maps: list[Tensor] = []

    def chain(self) -> Tensor:
        self.chains.append(self._noise.chain())
        return self.chains[-1]

    def mask(self) -> Tensor:
        return self._noise.mask()

    def crops(self) -> Tensor:
        self.maps.append(self._noise.crops())
        return self.maps[-1]

    def prior_class(self, count: int) -> int:
        return self._noise.prior_class(count)


def trace(translation: Translation) -> str:
    """All losses to the last bit, as text: NaN, which stands for "not computed", equals itself."""
    return repr(translation.losses)


def assert_same(ours: Translation, theirs: Translation) -> None:
    """The same row bit for bit: status, image, and each loss of each step."""
    assert (ours.status, ours.steps, ours.restarts) == (
        theirs.status,
        theirs.steps,
        theirs.restarts,
    )
    assert trace(ours) == trace(theirs)
    assert ours.image is not None and theirs.image is not None
    assert np.array_equal(ours.image, theirs.image)
