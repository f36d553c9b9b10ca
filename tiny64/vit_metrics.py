"""Validation of the small ViT: metrics for the log, and a sheet of its keys.

B, N images, T patch tokens, D width.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dstc_engine.training.images import ImageSet
from dstc_engine.training.sheet import write_sheet
from tiny64.views import normalize, recolor
from tiny64.vit import IMAGENET_MEAN, IMAGENET_STD, look


def look_at(vit: VisionTransformer, images: ImageSet, rows: Tensor) -> tuple[Tensor, Tensor]:
    """CLS (N, D) and keys (N, 1 + T, D) of plain images, on the CPU."""
    return _look_through(vit, images.batch(rows))


@torch.no_grad()
def _look_through(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    device = next(vit.parameters()).device
    parts = [
        look(vit, normalize(part.to(device), IMAGENET_MEAN, IMAGENET_STD))
        for part in torch.split(images, 64)
    ]
    cls, keys = zip(*parts, strict=True)
    return torch.cat(cls).cpu(), torch.cat(keys).cpu()


def style_accuracy(
    train: Tensor, train_styles: Tensor, val: Tensor, val_styles: Tensor
) -> tuple[float, float]:
    """How well CLS tells styles: (linear probe, 5 nearest neighbours by cosine), shares right.

    The probe is a ridge regression onto the styles from standardised tokens (N, D).
    """
    mean, std = train.mean(0), train.std(0) + 1e-6
    a, b = (train - mean) / std, (val - mean) / std
    a, b = F.pad(a, (0, 1), value=1.0), F.pad(b, (0, 1), value=1.0)
    wanted = F.one_hot(train_styles).float()
    ridge = 0.01 * len(a) * torch.eye(a.shape[1])
    weights = torch.linalg.solve(a.T @ a + ridge, a.T @ wanted)
    probe = ((b @ weights).argmax(1) == val_styles).float().mean()
    nearest = (F.normalize(val, dim=1) @ F.normalize(train, dim=1).T).topk(5).indices
    votes = F.one_hot(train_styles[nearest], wanted.shape[1]).sum(1).argmax(1)
    return float(probe), float((votes == val_styles).float().mean())


def position_match(one: Tensor, two: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where keys (B, T, D) of one image find their likest in the other.

    Returns:
        Two (B, T) bool: found at the same position; at it or one of its eight neighbours.
    """
    found = (F.normalize(one, dim=-1) @ F.normalize(two, dim=-1).transpose(1, 2)).argmax(-1)
    here = torch.arange(side * side)
    far = torch.maximum((found // side - here // side).abs(), (found % side - here % side).abs())
    return far == 0, far <= 1


def self_similarity_distance(one: Tensor, two: Tensor) -> Tensor:
    """(B,) mean square difference of the cosine self-similarities of keys (B, T, D)."""
    a, b = F.normalize(one, dim=-1), F.normalize(two, dim=-1)
    return (a @ a.transpose(1, 2) - b @ b.transpose(1, 2)).pow(2).mean((1, 2))


def _apartness(one: Tensor, two: Tensor) -> float:
    pairs = self_similarity_distance(one, two).mean()
    return float(self_similarity_distance(one, two.roll(1, 0)).mean() / pairs)


def evaluate(
    vit: VisionTransformer, train: ImageSet, val: ImageSet, drawn: Tensor
) -> dict[str, float]:
    """The val metrics of `COLUMNS`.

    match: keys of fluent_flat find their position in fluent_3d (drawn: on the drawing alone; near:
    within one token). self_similarity: mean distance between such twins, and between other subjects
    of the two styles. shape: how many times as far apart other subjects are as images of one
    shape: twemoji and noto, the two aligned pairs (line: openmoji and openmoji_line), and an image
    in other colours. cls: mean square difference between subjects of one style, and between twins.
    Of own images, match and shape_recoloured compare each with itself in other colours, and styles
    are told where there are several.

    Args:
        drawn: (N, S, S) silhouettes of `val`; matches are also counted on drawn patches alone.
    """
    cls, keys = look_at(vit, val, torch.arange(len(val)))
    side = math.isqrt(keys.shape[1] - 1)
    if val.is_own:
        return _evaluate_own(vit, train, val, cls, keys)
    metrics = _style_metrics(vit, train, val, cls)
    flat, solid = _same_subjects(val, "fluent_flat", "fluent_3d")
    exact, near = position_match(keys[flat, 1:], keys[solid, 1:], side)
    cover = F.adaptive_avg_pool2d(drawn[flat][:, None].float(), side).flatten(1) > 0.5
    metrics |= {
        "val_match": float(exact.float().mean()),
        "val_match_near": float(near.float().mean()),
        "val_match_drawn": float(exact[cover].float().mean()),
        "val_match_drawn_near": float(near[cover].float().mean()),
    }
    a, b = _same_subjects(val, "twemoji", "noto")
    full, line = _same_subjects(val, "openmoji", "openmoji_line")
    other_colors = recolor(val.batch(a), 1.0, torch.Generator().manual_seed(0))
    _, recolored = _look_through(vit, other_colors)
    metrics |= {
        "val_shape_vendors": _apartness(keys[a], keys[b]),
        "val_shape_twins": _apartness(keys[flat], keys[solid]),
        "val_shape_line": _apartness(keys[full], keys[line]),
        "val_shape_recoloured": _apartness(keys[a], recolored),
        "val_self_similarity_twins": float(
            self_similarity_distance(keys[flat], keys[solid]).mean()
        ),
        "val_self_similarity_random": float(
            self_similarity_distance(keys[flat], keys[solid.roll(1)]).mean()
        ),
        "val_cls_same_style": float((cls[flat] - cls[flat.roll(1)]).pow(2).mean()),
        "val_cls_same_subject": float((cls[flat] - cls[solid]).pow(2).mean()),
    }
    return metrics


def _style_metrics(
    vit: VisionTransformer, train: ImageSet, val: ImageSet, cls: Tensor
) -> dict[str, float]:
    known = sorted(set(train.styles))
    few = torch.linspace(0, len(train) - 1, min(1000, len(train))).long()
    train_cls, _ = look_at(vit, train, few)
    train_styles = torch.tensor([known.index(train.styles[int(i)]) for i in few])
    # A look that only val has is not to be told from this training.
    told = torch.tensor([i for i, style in enumerate(val.styles) if style in known])
    styles = torch.tensor([known.index(val.styles[int(i)]) for i in told])
    probe, neighbors = style_accuracy(train_cls, train_styles, cls[told], styles)
    return {"val_style_probe": probe, "val_style_5nn": neighbors}


def _evaluate_own(
    vit: VisionTransformer, train: ImageSet, val: ImageSet, cls: Tensor, keys: Tensor
) -> dict[str, float]:
    images = val.batch(torch.arange(len(val)))
    _, recolored = _look_through(vit, recolor(images, 1.0, torch.Generator().manual_seed(0)))
    side = math.isqrt(keys.shape[1] - 1)
    exact, near = position_match(keys[:, 1:], recolored[:, 1:], side)
    metrics = {
        "val_match": float(exact.float().mean()),
        "val_match_near": float(near.float().mean()),
    }
    if len(val) > 1:
        metrics["val_shape_recoloured"] = _apartness(keys, recolored)
    if len(set(train.styles)) > 1 and set(train.styles) & set(val.styles):
        metrics |= _style_metrics(vit, train, val, cls)
    return metrics


def _same_subjects(images: ImageSet, one: str, two: str) -> tuple[Tensor, Tensor]:
    rows: dict[str, dict[str, int]] = {one: {}, two: {}}
    for i, (subject, style) in enumerate(zip(images.subjects, images.styles, strict=True)):
        if style in rows:
            rows[style][subject] = i
    shared = sorted(rows[one].keys() & rows[two].keys())
    return torch.tensor([rows[one][s] for s in shared]), torch.tensor(
        [rows[two][s] for s in shared]
    )


def write_keys(path: Path, vit: VisionTransformer, val: ImageSet) -> None:
    """Writes a sheet of two subjects in every style, or of twelve own images.

    From above: the images; their keys' first three principal components (over the sheet) as
    colours; cosine of every key with that of the centre; the silhouette-like first component alone.
    """
    subjects = sorted(set(val.subjects))
    wanted = [subjects[len(subjects) // 4], subjects[len(subjects) // 2]]
    rows = torch.tensor([i for s in wanted for i, t in enumerate(val.subjects) if t == s])
    if val.is_own:
        rows = torch.linspace(0, len(val) - 1, min(12, len(val))).long()
    _, keys = look_at(vit, val, rows)
    keys = keys[:, 1:]
    side, size = math.isqrt(keys.shape[1]), val.pixels.shape[-1]
    flat = keys.flatten(0, 1) - keys.mean((0, 1))
    _, _, axes = torch.linalg.svd(flat, full_matrices=False)
    parts = flat @ axes[:3].T
    low, high = parts.quantile(0.02, 0), parts.quantile(0.98, 0)
    parts = ((parts - low) / (high - low) * 2 - 1).clamp(-1, 1)
    colors = parts.reshape(len(rows), side, side, 3).permute(0, 3, 1, 2)
    unit = F.normalize(keys, dim=-1)
    center = (unit @ unit[:, side * side // 2 + side // 2, :, None]).reshape(-1, 1, side, side)
    shown = [
        colors,
        center.clamp(-1, 1).expand(-1, 3, -1, -1),
        colors[:, :1].expand(-1, 3, -1, -1),
    ]
    write_sheet(path, [val.batch(rows), *(F.interpolate(view, size) for view in shown)])
