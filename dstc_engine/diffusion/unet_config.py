"""What decides the shape of an ADM UNet, and how it is read off a checkpoint's flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dstc_engine.diffusion.adm_flags import Flags
from dstc_engine.errors import WeightsError

# Channel multipliers that the original falls back to when a configuration names none.
DEFAULT_MULTIPLIERS = {
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    64: (1.0, 2.0, 3.0, 4.0),
}
GROUPS = 32  # of each group norm
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What decides the shape of a UNet; after the colon, the original's flag.

    The defaults are what the published ImageNet and FFHQ checkpoints share.

    Attributes:
        image_size: pixels of the side. channels: width of the first level (num_channels).
        multipliers: width of each level over `channels` (channel_mult); each after the first halves
            the side.
        res_blocks: residual blocks per level on the way down, one more on the way up.
        attention_resolutions: sides in pixels at which blocks are followed by attention.
        head_channels: width of one attention head; -1 takes `heads` heads at every width.
        heads_upsample: heads on the way up; -1 takes `heads`. Neither counts with `head_channels`.
        classes: number of classes of a class-conditional model, else None (class_cond).
        dropout: share of activations dropped in training.
        scale_shift_norm: time scales and shifts the second norm of a block; else it is added to
            what that norm sees.
        resblock_updown: residual blocks halve and double the side; else convolutions do.
        new_attention_order: q, k, v are split before heads; else heads before q, k, v.
        learn_sigma: the output has 3 more channels, which interpolate the variance.

    Raises:
        WeightsError: no such network can be built; the setting is named.
    """

    image_size: int
    channels: int
    multipliers: tuple[float, ...]
    res_blocks: int
    attention_resolutions: tuple[int, ...]
    head_channels: int = 64
    heads: int = 4
    heads_upsample: int = -1
    classes: int | None = None
    dropout: float = 0.0
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    new_attention_order: bool = False
    learn_sigma: bool = True

    def __post_init__(self) -> None:
        def refuse(setting: str, expected: str) -> None:
            found = getattr(self, setting)
            raise WeightsError(f"UNet setting {setting} is {found!r}; expected {expected}")

        if not self.multipliers:
            refuse("multipliers", "one or more")
        if self.image_size < 1 or self.image_size % self.side_factor:
            levels = len(self.multipliers)
            refuse("image_size", f"a multiple of {self.side_factor} for {levels} levels")
        if self.channels < 2 or self.channels % 2:
            refuse("channels", "an even number: half of the time embedding are sines")
        if any(width < 1 or width % GROUPS for width in self.widths):
            refuse("multipliers", f"widths that are multiples of {GROUPS}, for the group norms")
        if self.res_blocks < 1:
            refuse("res_blocks", "1 or more")
        if any(not 1 <= side <= self.image_size for side in self.attention_resolutions):
            refuse("attention_resolutions", f"sides of 1-{self.image_size} pixels")
        if self.classes is not None and self.classes < 1:
            refuse("classes", "1 or more, or None")
        if not 0 <= self.dropout < 1:
            refuse("dropout", "0 or more, below 1")
        setting = "heads" if self.head_channels == -1 else "head_channels"
        for width in self._attended_widths():
            if getattr(self, setting) < 1 or width % getattr(self, setting):
                refuse(setting, f"a divisor of {width}, the width of an attention")
            if self.head_channels == -1 and self.heads_upsample != -1:
                if self.heads_upsample < 1 or width % self.heads_upsample:
                    refuse("heads_upsample", f"-1 or a divisor of {width}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(int(self.channels * m) for m in self.multipliers)

    @property
    def side_factor(self) -> int:
        """What the side of an image must be a multiple of: the coarsest level has whole pixels."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def attended(self) -> frozenset[int]:
        """How much smaller than the image a level with attention is."""
        return frozenset(self.image_size // side for side in self.attention_resolutions)

    def heads_of(self, width: int, up: bool) -> int:
        """Heads of an attention of this width, on the way up or else down."""
        if self.head_channels != -1:
            return width // self.head_channels
        return self.heads_upsample if up and self.heads_upsample != -1 else self.heads

    def _attended_widths(self) -> list[int]:
        levels = [w for level, w in enumerate(self.widths) if 2**level in self.attended]
        return [*levels, self.widths[-1]]  # the middle block always attends

    @classmethod
    def from_flags(cls, flags: Mapping[str, object], classes: int | None = None) -> UNetConfig:
        """From the flags of a checkpoint, as the guided-diffusion repository's commands name them.

        A flag that is not given has that repository's default; image_size, num_channels,
        num_res_blocks and attention_resolutions must be given.

        Args:
            flags: values, or their text.
            classes: rows of the checkpoint's `label_emb.weight`, where known: flags tell no number.
                By default the flag `num_classes`, else ImageNet's 1000.

        Raises:
            WeightsError: a flag is missing, misspelt, of another kind, or asks for what is no part
                of this: upsamplers, and networks that predict the image.
        """
        read = Flags(flags)
        size = read.integer("image_size")
        multipliers = read.listed("channel_mult", float, "") or DEFAULT_MULTIPLIERS.get(size, ())
        if not multipliers:
            raise WeightsError(f"flag channel_mult is empty; image_size {size} has no default")
        if read.switch("class_cond", False):
            classes = read.integer("num_classes", classes or IMAGENET_CLASSES)
        else:
            classes = None
        return cls(
            image_size=size,
            channels=read.integer("num_channels"),
            multipliers=multipliers,
            res_blocks=read.integer("num_res_blocks"),
            attention_resolutions=read.listed("attention_resolutions", int),
            head_channels=read.integer("num_head_channels", -1),
            heads=read.integer("num_heads", 4),
            heads_upsample=read.integer("num_heads_upsample", -1),
            classes=classes,
            dropout=read.number("dropout", 0.0),
            scale_shift_norm=read.switch("use_scale_shift_norm", True),
            resblock_updown=read.switch("resblock_updown", False),
            new_attention_order=read.switch("use_new_attention_order", False),
            learn_sigma=read.switch("learn_sigma", False),
        )
