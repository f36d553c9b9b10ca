"""Trains a small CLIP on captioned drawings of the same subjects in several styles.

The loss is CLIP's contrast between the pictures and the captions of a batch (Radford et al. 2021),
with one change: many pictures share a subject or a style, so a caption counts as right for *every*
picture it is true of ("flat cartoon drawing" for all such drawings), as in UniCL (Yang et al.
2022). Half of a batch is drawn freely; the other half shows the same subjects in another style,
because the difference between styles is what guidance asks about. Half of the patch tokens are
dropped for most of the training (FLIP, Li et al. 2023), which buys 1.7 times as many pictures.

    python -m tiny64.clip_training --data emoji-64.parquet --out runs/clip --steps 1000

    B pictures and captions, L = 32 text tokens, E width of the shared embedding.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from dstc_engine.training.checkpoint import load_checkpoint, save_checkpoint
from dstc_engine.training.images import load_pictures
from dstc_engine.training.initial import begin
from dstc_engine.training.loop import Pace, World, learning_rate, shuffled_rows, update_ema
from dstc_engine.training.records import log_metrics, save_weights
from tiny64.clip import MEAN, STD, CLIPConfig, CLIPTraining
from tiny64.clip_captions import companions, draw_captions, load_keywords, matches, numbered
from tiny64.clip_metrics import evaluate, write_retrieval
from tiny64.views import degrade, normalise, random_crops, recolour, warp

COLUMNS = (
    "loss",
    "scale",
    "val_style",
    "val_name_top1",
    "val_name_top5",
    "val_caption_top1",
    "val_direction",
    "val_direction_noisy",
)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, match: Tensor) -> Tensor:
    """CLIP's loss with several right answers, per picture: (B,).

    Args:
        images, texts: (B, E) unit vectors. scale: inverse temperature. match: (B, B) from
            `matches`.
    """
    logits = scale * images @ texts.T
    forth = match / match.sum(1, keepdim=True)
    back = match.T / match.sum(0)[:, None]
    # The entropy of the right answers is taken off, so that 0 is a perfect score.
    loss: Tensor = 0.5 * (
        F.cross_entropy(logits, forth, reduction="none")
        + torch.special.xlogy(forth, forth).sum(1)
        + F.cross_entropy(logits.T, back, reduction="none")
        + torch.special.xlogy(back, back).sum(1)
    )
    return loss


def train_clip(
    data: str | Path,
    out: str | Path,
    config: CLIPConfig | None = None,
    how: CLIPTraining | None = None,
    minutes: float = 0,
    world: World | None = None,
    initial: str | None = None,
) -> Path:
    """Trains, or goes on training, the small CLIP; stops at `how.steps` or after `minutes`.

    Args:
        data: the indexed Parquet. out: folder for checkpoint.pt, log.csv, samples/,
            clip.safetensors (the averaged weights, float32, open_clip's names) and clip.json
            (sizes, input mean and std, how it was trained, val metrics).
        initial: weights to start from, see `load_initial`; None: random ones.

    Returns:
        The path of the weights.

    Raises:
        UserError: no data there, or `initial` is another network or not what the run in `out`
            started from.
    """
    config, how, world = config or CLIPConfig(), how or CLIPTraining(), world or World()
    folder = Path(out)
    train, val = load_pictures(data, "train"), load_pictures(data, "val")
    keywords = load_keywords(data, train)
    subjects, styles = numbered(train.subjects), numbered(train.styles)
    tokenizer = SimpleTokenizer(context_length=config.text_cfg["context_length"])
    torch.manual_seed(how.seed)
    clip = config.build(how.token_drop)
    state = load_checkpoint(folder / "checkpoint.pt")
    begun = begin(clip, state, initial, folder, "clip", asdict(config))
    clip.to(world.device)
    ema = copy.deepcopy(clip).eval().requires_grad_(False)
    optimizer = _optimizer(clip, how)
    start, spent = 0, 0.0
    if state is not None:
        clip.load_state_dict(state["clip"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, spent = int(state["step"]), float(state["seconds"])
    model = world.wrap(clip)
    pace = Pace(how.steps, minutes, "clip", world.rank, clock=world.clock)
    total, counted = 0.0, 0
    for step, save in pace.run(start):
        began = time.monotonic()
        key = hash((how.seed, step, world.rank)) % 2**62
        generator = torch.Generator().manual_seed(key)
        torch.manual_seed(key)  # open_clip's token drop draws from the global generator
        if how.token_drop and step >= (1 - how.whole) * how.steps:
            clip.visual.patch_dropout.prob = 0.0
        rows = shuffled_rows(len(train), how.batch // 2, step, how.seed, world)
        rows = torch.cat([rows, companions(train, rows, generator)])
        captions = draw_captions(train, keywords, rows, generator)
        match = matches(captions, subjects[rows], styles[rows]).to(world.device)
        pictures = recolour(train.batch(rows), how.recoloured, generator)
        pictures = degrade(warp(pictures, random_crops(len(rows), generator)), 0.4, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, how.steps, how.peak_rate, min(100, how.steps // 10))
        with torch.autocast(torch.device(world.device).type, torch.bfloat16, enabled=how.bf16):
            images, texts, scale = model(
                normalise(pictures, MEAN, STD).to(world.device),
                tokenizer(captions.texts).to(world.device),
            )
        images, texts = (F.normalize(x.float(), dim=-1) for x in (images, texts))
        loss = contrastive_loss(images, texts, scale.float(), match.float()).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
        update_ema(ema, clip, step, how.ema)
        total, counted = total + float(loss.detach()), counted + 1
        spent += time.monotonic() - began
        if (step + 1) % pace.log_steps == 0 or save:
            metrics = {"loss": total / counted, "scale": float(clip.logit_scale.detach().exp())}
            total, counted = 0.0, 0
            if save and world.rank == 0:
                metrics |= evaluate(ema, val, tokenizer)
                write_retrieval(folder / "samples" / f"{step + 1:06d}.png", ema, val, tokenizer)
                checkpoint: dict[str, Any] = {
                    "step": step + 1,
                    "seconds": spent,
                    "clip": clip.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "initial": begun and asdict(begun),
                }
                save_checkpoint(folder / "checkpoint.pt", checkpoint)
                record = {
                    "architecture": asdict(config),
                    "mean": MEAN,
                    "std": STD,
                    "initial": begun and asdict(begun),
                    "training": asdict(how),
                    "steps": step + 1,
                    "seconds": round(spent, 1),
                    "metrics": metrics,
                }
                save_weights(folder, "clip", ema.state_dict(), record)
            if world.rank == 0:
                log_metrics(folder / "log.csv", COLUMNS, step + 1, metrics)
            if world.report:
                world.report(step + 1, metrics)
    return folder / "clip.safetensors"


def _optimizer(clip: nn.Module, how: CLIPTraining) -> torch.optim.AdamW:
    decayed = [p for p in clip.parameters() if p.ndim > 1]
    free = [p for p in clip.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=how.peak_rate, betas=(0.9, 0.98), eps=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small CLIP on one machine.")
    parser.add_argument("--data", required=True, help="Parquet of `dstc emoji build`")
    parser.add_argument("--out", required=True, help="folder of the run; an old one is resumed")
    parser.add_argument("--steps", type=int, default=CLIPTraining.steps)
    parser.add_argument("--batch", type=int, default=CLIPTraining.batch)
    parser.add_argument("--minutes", type=float, default=0, help="stop after; resume with the same")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    how = CLIPTraining(steps=args.steps, batch=args.batch)
    world = World(device=args.device)
    print(train_clip(args.data, args.out, how=how, minutes=args.minutes, world=world))


if __name__ == "__main__":
    main()
