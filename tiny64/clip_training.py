"""Trains a small CLIP on captioned drawings of the same subjects in several styles.

The loss is CLIP's contrast between the images and the captions of a batch (Radford et al. 2021),
with one change: many images share a subject or a style, so a caption counts as right for *every*
image it is true of ("flat cartoon drawing" for all such drawings), as in UniCL (Yang et al.
2022). Half of a batch is drawn freely; the other half shows the same subjects in another style,
because the difference between styles is what guidance asks about. Half of the patch tokens are
dropped for most of the training (FLIP, Li et al. 2023), which buys 1.7 times as many images.

    dstc train encoder --kind clip --data emoji-64.parquet --out runs/clip

    B images and captions, L = 32 text tokens, E width of the shared embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from dstc_engine.errors import UserError
from dstc_engine.training.images import load_images, load_training
from dstc_engine.training.loop import Recipe, World, decayed_groups, fit, shuffled_rows
from tiny64.clip import MEAN, STD, CLIPConfig, CLIPTraining
from tiny64.clip_captions import companions, draw_captions, load_keywords, matches, numbered
from tiny64.clip_metrics import evaluate, write_retrieval
from tiny64.perturbed import perturb
from tiny64.views import degrade, normalize, random_crops, recolor, warp

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
    """CLIP's loss with several right answers, per image: (B,).

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
    """Trains, or goes on training, the small CLIP; returns the path of its weights.

    Args:
        data: the indexed Parquet; own images need captions. Others as in `fit`.

    Raises:
        UserError: no data there; or as `fit`.
    """
    config, how, world = config or CLIPConfig(), how or CLIPTraining(), world or World()
    train, val = load_training(data, how.every_style), load_images(data, "val")
    if train.is_own and not all([*train.names, *val.names]):
        raise UserError(f"{data}: found images without a caption; expected one for each")
    keywords = load_keywords(data, train)
    has_companions = not train.is_own or len(set(train.subjects)) < len(train)
    together = 1 + (how.companions if has_companions else 0)
    if how.batch % together:
        raise UserError(
            f"batch is {how.batch}, of {together} images of each subject (companions is "
            f"{how.companions}); expected a multiple of {together}"
        )
    subjects, styles = numbered(train.subjects), numbered(train.styles)
    tokenizer = SimpleTokenizer(context_length=config.text_cfg["context_length"])
    torch.manual_seed(how.seed)
    clip = config.build(how.token_drop)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = shuffled_rows(len(train), how.batch // together, step, how.seed, world)
        rows = torch.cat([rows, companions(train, rows, generator, together - 1)])
        captions = draw_captions(train, keywords, rows, generator)
        match = matches(captions, subjects[rows], styles[rows])
        images = recolor(train.batch(rows), how.recoloured, generator)
        images = degrade(warp(images, random_crops(len(rows), generator)), 0.4, generator)
        return normalize(images, MEAN, STD), tokenizer(captions.texts), match

    def losses(
        forward: Callable[..., tuple[Tensor, ...]],
        step: int,
        batch: tuple[Tensor, Tensor, Tensor],
    ) -> dict[str, Tensor]:
        if how.token_drop and step >= (1 - how.whole) * how.steps:
            clip.visual.patch_dropout.prob = 0.0
        images, texts, match = (part.to(world.device) for part in batch)

        def wrong_captions(images: Tensor) -> Tensor:
            return loss_of(clip(images, texts), match)

        if how.perturbed:
            images = perturb(images, wrong_captions, how.perturbed)
        return {"loss": loss_of(forward(images, texts), match)}

    def loss_of(found: tuple[Tensor, ...], match: Tensor) -> Tensor:
        images, texts = (F.normalize(x.float(), dim=-1) for x in found[:2])
        return contrastive_loss(images, texts, found[2].float(), match.float()).mean()

    @torch.no_grad()
    def limit_scale() -> dict[str, float]:
        clip.logit_scale.clamp_(0, math.log(100))
        return {"scale": float(clip.logit_scale.exp())}

    def evaluate_with_sheet(ema: open_clip.CLIP, sheet: Path) -> dict[str, float]:
        write_retrieval(sheet, ema, val, tokenizer)
        return evaluate(ema, val, tokenizer)

    recipe = Recipe(
        kind="clip",
        network=clip,
        architecture=asdict(config),
        settings=how,
        warmup=min(100, how.steps // 10),
        gradient_norm=1.0,
        optimizer=lambda network: torch.optim.AdamW(
            decayed_groups(network, 0.1), lr=how.peak_rate, betas=(0.9, 0.98), eps=1e-6
        ),
        draw=draw,
        losses=losses,
        evaluate=evaluate_with_sheet,
        columns=COLUMNS,
        after_step=limit_scale,
        described={"mean": MEAN, "std": STD},
        key="clip",
    )
    return fit(recipe, out, minutes, world, initial)
