"""Ablations: our method, and our method with one of its parts left out."""

from __future__ import annotations

from dstc_engine.losses import LOSSES
from tiny64.quality.rows import BenchmarkRow

WHOLE = "ours"
UNGUIDED = "no guidance"

# Preset fields as `--set` gives them. The paper's own ablations, and our options beside them.
ABLATIONS: dict[str, dict[str, str]] = {
    WHOLE: {},
    "without contrast": {"weight_contrast": "0"},
    "without structure": {"weight_structure": "0"},
    "without contrast and structure": {"weight_contrast": "0", "weight_structure": "0"},
    "without divergence": {"weight_divergence": "0"},
    "without style_cls": {"weight_style_cls": "0"},
    "without style_pixels": {"weight_style_pixels": "0"},
    "without clip": {"weight_clip": "0"},
    "without range": {"weight_range": "0"},
    "without resampling": {"resample": "1"},
    "with resampling": {"resample": "3"},
    "without noise mixing": {"noise_mix": "false"},
    "random VGG instead of DINO": {
        **{f"weight_{loss}": "0" for loss in ("contrast", "structure", "divergence", "style_cls")},
        "weight_vgg_content": "3000",
        "weight_vgg_gram": "300",
        "vgg_size": "64",
    },
    "with colour matching": {"match_colours": "true"},
    "with restarts": {"range_restart": "true", "range_restart_limit": "0.05"},
    # The range loss, too: the spherical step would follow it at full length, however small it is.
    UNGUIDED: {f"weight_{loss}": "0" for loss in LOSSES},
}
# What looks at the style image, or at the prompt, says nothing of rows that have none.
_OF_IMAGES = (
    "without style_cls",
    "without style_pixels",
    "with colour matching",
    "random VGG instead of DINO",
)
_OF_TEXTS = ("without clip",)


def is_tried(way: str, row: BenchmarkRow, ablated_rows: int) -> bool:
    """Whether a row is translated this way.

    A part is left out in the first so many rows of each task on aligned pairs, where there is a
    truth, and where the part does anything.
    """
    if way == WHOLE:
        return True
    by_text = row.request.style is None
    if (by_text and way in _OF_IMAGES) or (not by_text and way in _OF_TEXTS):
        return False
    return row.truth is not None and row.number < ablated_rows
