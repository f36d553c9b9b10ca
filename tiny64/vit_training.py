"""Trains a small vision transformer to see shape in its keys and appearance in its CLS token.

Guidance reads two things from the last block: the keys (where is what) and the CLS token (how does
it look). DINO (Caron et al. 2021) finds both in millions of photographs; with thousands of drawings
in known styles each is trained for directly, on views that share one and differ in the other:

    source image     -- colours, geometry g --------------> view 1  } keys match position by
    its twin           -- other colours, g, moved, flipped -> view 2  } position (dense contrast)
    view 1's colours   -- another geometry, small window ---> crop 1  } CLS matches its own view,
    view 2's colours   -- another geometry, small window ---> crop 2  } not the same shape's other
An image's twin is the same subject in the other style of an aligned pair; where there is none, the
image itself in other colours. Linear heads on CLS (style, palette) and on the keys (silhouette)
speed this up and are thrown away.

    dstc train encoder --kind vit --data emoji-64.parquet --out runs/vit

    B images, T = 256 patch tokens, D width, P sampled positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.training.images import load_images, load_training
from dstc_engine.training.loop import (
    Recipe,
    World,
    decayed_groups,
    fit,
    runs_in_bf16,
    shuffled_rows,
)
from tiny64.perturbed import perturb
from tiny64.views import silhouettes
from tiny64.vit import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Seen,
    ViTConfig,
    ViTTraining,
    ViTWithHeads,
)
from tiny64.vit_metrics import evaluate, write_keys
from tiny64.vit_views import ViewMaker, Views

COLUMNS = (
    "loss",
    "loss_keys",
    "loss_crops",
    "loss_style",
    "loss_looks",
    "loss_palette",
    "loss_silhouette",
    "val_style_probe",
    "val_style_5nn",
    "val_match",
    "val_match_near",
    "val_match_drawn",
    "val_match_drawn_near",
    "val_self_similarity_twins",
    "val_self_similarity_random",
    "val_shape_vendors",
    "val_shape_twins",
    "val_shape_line",
    "val_shape_recoloured",
    "val_cls_same_style",
    "val_cls_same_subject",
)


def dense_contrast(queries: Tensor, keys: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """How badly positions are found again by their keys: (B,) mean cross-entropy.

    Args:
        queries: (B, P, D) keys of view 1. keys: (B, T, D) of view 2, each in every position.
        targets: (B, P) int64, the position in view 2; -1 where there is none.
    """
    cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(1, 2)
    logits = (cosines / temperature).transpose(1, 2)
    losses = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    return losses.sum(1) / (targets >= 0).sum(1).clamp(min=1)


def crop_contrast(seals: Tensor, crops: Tensor, alike: Tensor, temperature: float) -> Tensor:
    """How badly views are found again by their crops among all others: (N,), both ways.

    Args:
        seals, crops: (N, D) unit vectors of views and of their crops. alike: (N, N) bool, pairs
            that look the same and so are no negatives; the diagonal is ignored.
    """
    logits = seals @ crops.T / temperature
    own = torch.eye(len(seals), dtype=torch.bool, device=seals.device)
    logits = logits.masked_fill(alike & ~own, -torch.inf)
    target = torch.arange(len(seals), device=seals.device)
    forth = F.cross_entropy(logits, target, reduction="none")
    return 0.5 * (forth + F.cross_entropy(logits.T, target, reduction="none"))


def look_contrast(cls: Tensor, styles: Tensor, temperature: float) -> Tensor:
    """How badly views of one style are found by their CLS among those of others: (2B,).

    Supervised contrast (Khosla et al. 2020), over what guidance compares: mean squared differences
    of raw tokens. The two views of an image are no pair where they share its style, so that a token
    must tell how *another* subject is drawn.

    Args:
        cls: (2B, D), view 1 of each image, then view 2. styles: (2B,) int64.
    """
    count = len(cls)
    squares = cls.pow(2).sum(1)
    distance = (squares[:, None] + squares[None] - 2 * cls @ cls.T) / cls.shape[1]
    same = styles[:, None] == styles[None]
    number = torch.arange(count, device=cls.device) % (count // 2)
    own = (number[:, None] == number[None]) & same
    # Not -inf: a batch of one image would leave nothing, and its gradients would be NaN.
    chances = (-distance / temperature).masked_fill(own, -1e9).log_softmax(1)
    wanted = same & ~own
    return -chances.where(wanted, 0.0).sum(1) / wanted.sum(1).clamp(min=1)


def losses(seen: Seen, batch: Views, how: ViTTraining) -> dict[str, Tensor]:
    """The losses, each a mean over the batch, unweighted."""
    count = len(batch.positions)
    width = seen.keys.shape[-1]
    queries = seen.keys[:count].gather(1, batch.positions[:, :, None].expand(-1, -1, width))
    keys = dense_contrast(queries, seen.keys[count:], batch.targets, how.key_temperature)
    overlap = torch.stack([torch.minimum(p, batch.palette).sum(1) for p in batch.palette])
    alike = (overlap > how.alike) & (batch.style[:, None] == batch.style[None])
    crops = crop_contrast(seen.seals, seen.crop_seals, alike, how.crop_temperature)
    style = F.cross_entropy(seen.style, batch.style) + F.cross_entropy(seen.crop_style, batch.style)
    # What the palette's own entropy costs is taken off, so that 0 is a perfect guess.
    entropy = -torch.special.xlogy(batch.palette, batch.palette).sum(1).mean()
    return {
        "keys": keys.mean(),
        "crops": crops.mean(),
        "style": 0.5 * style,
        "looks": look_contrast(seen.cls, batch.style, how.look_temperature).mean(),
        "palette": F.cross_entropy(seen.palette, batch.palette) - entropy,
        "silhouette": F.binary_cross_entropy_with_logits(seen.silhouette, batch.cover.clamp(0, 1)),
    }


def train_vit(
    data: str | Path,
    out: str | Path,
    config: ViTConfig | None = None,
    how: ViTTraining | None = None,
    minutes: float = 0,
    world: World | None = None,
    initial: str | None = None,
) -> Path:
    """Trains, or goes on training, the transformer; returns the path of its weights.

    The heads that are thrown away start from random weights, whatever `initial` is.

    Args:
        data: the indexed Parquet. Others as in `fit`.

    Raises:
        UserError: no data there; or as `fit`.
    """
    config, how, world = config or ViTConfig(), how or ViTTraining(), world or World()
    train, val = load_training(data, how.every_style), load_images(data, "val")
    # What is validated asks for the styles of val alone.
    probed = load_images(data, "train") if how.every_style else train
    maker, val_drawn = ViewMaker(train, config, how), silhouettes(val.pixels)

    def drop_at(step: int) -> float:
        return how.token_drop if step < (1 - how.whole) * how.steps else 0.0

    def draw(step: int, generator: torch.Generator) -> Views:
        rows = shuffled_rows(len(train), how.batch, step, how.seed, world)
        return maker.make(rows, generator, drop_at(step))

    def step_losses(
        forward: Callable[..., tuple[Tensor, ...]], step: int, batch: Views
    ) -> dict[str, Tensor]:
        batch = Views(*(getattr(batch, field.name).to(world.device) for field in fields(Views)))
        kept = batch.kept if drop_at(step) else None  # all of them need no copy

        def weighed(parts: dict[str, Tensor], names: Iterable[str]) -> Tensor:
            return torch.stack([getattr(how, name) * parts[name] for name in names]).sum()

        def wrong_looks(views: Tensor) -> Tensor:
            seen = Seen(*network(views, batch.windows, batch.corners, kept))
            return weighed(losses(seen, batch, how), ("style", "looks", "crops"))

        views = batch.views
        if how.perturbed:
            views = perturb(views, wrong_looks, how.perturbed)
        parts = losses(Seen(*forward(views, batch.windows, batch.corners, kept)), batch, how)
        loss = weighed(parts, parts)
        return {"loss": loss, **{f"loss_{name}": part for name, part in parts.items()}}

    def evaluate_with_sheet(ema: ViTWithHeads, sheet: Path) -> dict[str, float]:
        write_keys(sheet, ema.vit, val)
        return evaluate(ema.vit, probed, val, val_drawn)

    torch.manual_seed(how.seed)
    network = ViTWithHeads(config, len(set(train.styles)), bf16=runs_in_bf16(how, world.device))
    recipe = Recipe(
        kind="vit",
        network=network,
        architecture=asdict(config),
        settings=how,
        warmup=min(100, how.steps // 10),
        gradient_norm=3.0,
        optimizer=lambda network: torch.optim.AdamW(
            decayed_groups(network, 0.05), lr=how.peak_rate
        ),
        draw=draw,
        losses=step_losses,
        evaluate=evaluate_with_sheet,
        columns=COLUMNS,
        shipped=lambda network: network.vit,
        described={"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    )
    return fit(recipe, out, minutes, world, initial)
