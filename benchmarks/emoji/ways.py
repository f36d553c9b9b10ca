"""Our method, and our method with one of its parts left out."""

from __future__ import annotations

WHOLE = "ours"

# Preset fields as `--set` gives them. The paper's own ablations, and our options beside them.
ABLATIONS: dict[str, dict[str, str]] = {
    WHOLE: {},
    "without contrast": {"weight_contrast": "0"},
    "without structure": {"weight_structure": "0"},
    "without contrast and structure": {"weight_contrast": "0", "weight_structure": "0"},
    "without divergence": {"weight_divergence": "0"},
    "without style_cls": {"weight_style_cls": "0"},
    "without style_pixels": {"weight_style_pixels": "0"},
    "without range": {"weight_range": "0"},
    "without resampling": {"resample": "1"},
    "without noise mixing": {"noise_mix": "false"},
    "with colour matching": {"match_colours": "true"},
    "with restarts": {"range_restart": "true", "range_restart_limit": "0.05"},
    "no guidance": {
        f"weight_{loss}": "0"
        for loss in ("contrast", "structure", "divergence", "style_cls", "style_pixels", "clip")
    },
}
