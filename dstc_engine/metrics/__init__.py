"""Measures of finished pictures; none of them guides.

Every metric of one picture, with whether more of it is better. Measures of whole sets are in
`sets.SET_METRICS`.
"""

from __future__ import annotations

METRICS: dict[str, bool] = {
    "structure_distance": False,
    "lpips": False,
    "mask_iou": True,
    "identity": True,
    "style_similarity": True,
    "style_right": True,
    "clip_score": True,
    "clip_direction": True,
    "truth_psnr": True,
    "truth_ssim": True,
    "truth_l1": False,
    "truth_lpips": False,
}
