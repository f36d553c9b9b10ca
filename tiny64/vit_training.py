"""Trains a small vision transformer to see shape in its keys and appearance in its CLS token.

Guidance reads two things from the last block: the keys (where is what) and the CLS token (how does
it look). DINO (Caron et al. 2021) finds both in millions of photographs; with thousands of drawings
in known styles each is trained for directly, on views that share one and differ in the other:

    source picture     -- colours, geometry g --------------> view 1  } keys match position by
    its twin           -- other colours, g, moved, flipped -> view 2  } position (dense contrast)
    view 1's colours   -- another geometry, small window ---> crop 1  } CLS matches its own view,
    view 2's colours   -- another geometry, small window ---> crop 2  } not the same shape's other
A picture's twin is the same subject in the other style of an aligned pair; where there is none, the
picture itself in other colours. Linear heads on CLS (style, palette) and on the keys (silhouette)
speed this up and are thrown away.

    python -m tiny64.vit_training --data emoji-64.parquet --out runs/vit --steps 900

    B pictures, T = 256 patch tokens, D width, P sampled positions.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.training.checkpoint import load_checkpoint, save_checkpoint
from dstc_engine.training.images import load_pictures
from dstc_engine.training.initial import begin
from dstc_engine.training.loop import Pace, World, learning_rate, shuffled_rows, update_ema
from dstc_engine.training.records import log_metrics, save_weights
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


def losses(seen: Seen, batch: Views, how: ViTTraining) -> dict[str, Tensor]:
    """The five losses, each a mean over the batch, unweighted."""
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
    """Trains, or goes on training, the transformer; stops at `how.steps` or after `minutes`.

    Args:
        data: the indexed Parquet. out: folder for checkpoint.pt, log.csv, samples/,
            vit.safetensors (the averaged weights, float32, timm's names) and vit.json (sizes, input
            mean and std, how it was trained, val metrics).
        initial: weights to start from, see `load_initial`; None: random ones. The heads
            that are thrown away start from random ones either way.

    Returns:
        The path of the weights.

    Raises:
        UserError: no data there, or `initial` is another network or not what the run in `out`
            started from.
    """
    config, how, world, folder = (
        config or ViTConfig(),
        how or ViTTraining(),
        world or World(),
        Path(out),
    )
    train, val = load_pictures(data, "train"), load_pictures(data, "val")
    maker, val_drawn = ViewMaker(train, config, how), silhouettes(val.pixels)
    torch.manual_seed(how.seed)
    network = ViTWithHeads(config, len(set(train.styles)))
    state = load_checkpoint(folder / "checkpoint.pt")
    begun = begin(network.vit, state, initial, folder, "vit", asdict(config))
    network.to(world.device)
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=how.peak_rate,
    )
    start, spent = 0, 0.0
    if state is not None:
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = int(state["step"]), float(state["seconds"])
    model = world.wrap(network)
    pace = Pace(how.steps, minutes, "vit", world.rank, clock=world.clock)
    sums: dict[str, float] = {}
    counted = 0
    for step, save in pace.run(start):
        began = time.monotonic()
        generator = torch.Generator().manual_seed(hash((how.seed, step, world.rank)) % 2**62)
        rows = shuffled_rows(len(train), how.batch, step, how.seed, world)
        batch = maker.make(rows, generator)
        batch = Views(
            *(getattr(batch, name).to(world.device) for name in Views.__dataclass_fields__)
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, how.steps, how.peak_rate, min(100, how.steps // 10))
        with torch.autocast(torch.device(world.device).type, torch.bfloat16, enabled=how.bf16):
            seen = Seen(*model(batch.views, batch.windows, batch.corners))
        parts = losses(seen, batch, how)
        loss = torch.stack([getattr(how, name) * part for name, part in parts.items()]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 3.0)
        optimizer.step()
        update_ema(ema, network, step, how.ema)
        for name, part in {"loss": loss, **{f"loss_{k}": v for k, v in parts.items()}}.items():
            sums[name] = sums.get(name, 0.0) + float(part.detach())
        counted += 1
        spent += time.monotonic() - began
        if (step + 1) % pace.log_steps == 0 or save:
            metrics = {name: value / counted for name, value in sums.items()}
            sums, counted = {}, 0
            if save and world.rank == 0:
                metrics |= evaluate(ema.vit, train, val, val_drawn)
                write_keys(folder / "samples" / f"{step + 1:06d}.png", ema.vit, val)
                checkpoint: dict[str, Any] = {
                    "step": step + 1,
                    "seconds": spent,
                    "network": network.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "initial": begun and asdict(begun),
                }
                save_checkpoint(folder / "checkpoint.pt", checkpoint)
                record = {
                    "architecture": asdict(config),
                    "mean": IMAGENET_MEAN,
                    "std": IMAGENET_STD,
                    "initial": begun and asdict(begun),
                    "training": asdict(how),
                    "steps": step + 1,
                    "seconds": round(spent, 1),
                    "metrics": metrics,
                }
                save_weights(folder, "vit", ema.vit.state_dict(), record)
            if world.rank == 0:
                log_metrics(folder / "log.csv", COLUMNS, step + 1, metrics)
            if world.report:
                world.report(step + 1, metrics)
    return folder / "vit.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small ViT on one machine.")
    parser.add_argument("--data", required=True, help="Parquet of `dstc emoji build`")
    parser.add_argument("--out", required=True, help="folder of the run; an old one is resumed")
    parser.add_argument("--steps", type=int, default=ViTTraining.steps)
    parser.add_argument("--batch", type=int, default=ViTTraining.batch)
    parser.add_argument("--minutes", type=float, default=0, help="stop after; resume with the same")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    how = ViTTraining(steps=args.steps, batch=args.batch)
    world = World(device=args.device)
    print(train_vit(args.data, args.out, how=how, minutes=args.minutes, world=world))


if __name__ == "__main__":
    main()
