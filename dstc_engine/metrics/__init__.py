"""Image quality metrics of finished images; none of them guides.

What they are called, for those who do not load torch.
"""

from __future__ import annotations

# Of one image, with whether more of it is better.
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
# Distances of sets, and what they are called through Inception's features.
SET_METRICS: dict[str, str] = {
    "frechet_distance": "FID",
    "kernel_distance": "KID",
    "mean_distance": "SFID",
    "class_mean_distance": "CSFID",
}
