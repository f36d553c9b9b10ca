"""Trains a small CLIP on captioned drawings of the same subjects in several styles.

The loss is CLIP's contrast between the pictures and the captions of a batch (Radford et al. 2021),
with one change: many pictures share a subject or a style, so a caption counts as right for *every*
picture it is true of ("flat cartoon drawing" for all such drawings), as in UniCL (Yang et al.
2022). Half of a batch is drawn freely; the other half shows the same subjects in another style,
because the difference between styles is what guidance asks about. Half of the patch tokens are
dropped for most of the training (FLIP, Li et al. 2023), which buys 1.7 times as many pictures.

    python -m tiny64.clip --data emoji-64.parquet --out runs/clip --steps 1000

    B pictures and captions, L = 32 text tokens, E width of the shared embedding.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from dstc_engine.training.checkpoint import load_checkpoint, save_checkpoint
from dstc_engine.training.images import Pictures, load_pictures
from dstc_engine.training.initial import begin
from dstc_engine.training.loop import Pace, World, learning_rate, shuffled_rows, update_ema
from dstc_engine.training.records import log_metrics, save_weights
from dstc_engine.training.sheet import write_sheet
from tiny64.captions import STYLE_PHRASES, caption
from tiny64.views import degrade, normalise, random_crops, recolour, warp

MEAN: tuple[float, ...] = tuple(open_clip.OPENAI_DATASET_MEAN)
STD: tuple[float, ...] = tuple(open_clip.OPENAI_DATASET_STD)

# The list that guidance averages over: open_clip's, less one that the method's authors left out.
TEMPLATES = [
    text
    for text in (template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if text != "a photo of many {}."
]

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


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Sizes, under the names of `open_clip.CLIP`."""

    embed_dim: int = 128
    vision_cfg: dict[str, int] = field(
        default_factory=lambda: {
            "image_size": 64,
            "patch_size": 8,
            "width": 192,
            "layers": 6,
            "head_width": 64,
        }
    )
    text_cfg: dict[str, int] = field(
        default_factory=lambda: {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 96,
            "heads": 4,
            "layers": 4,
        }
    )
    quick_gelu: bool = False

    def build(self, token_drop: float = 0.0) -> open_clip.CLIP:
        """A new network, random weights; in training it drops this share of its patch tokens."""
        vision = {**self.vision_cfg, "patch_dropout": token_drop}
        return open_clip.CLIP(
            self.embed_dim, vision, dict(self.text_cfg), quick_gelu=self.quick_gelu
        )


@dataclass(frozen=True, kw_only=True)
class CLIPTraining:
    """How the small CLIP is trained.

    Attributes:
        steps, batch: length, and pictures per step over all workers (each worker contrasts its
            own).
        peak_rate: of AdamW. ema: decay of the averaged weights, which are what is shipped.
        token_drop: share of patch tokens dropped, until the last `whole` of the steps.
        recoloured: share of pictures in other colours; a fox stays a fox, an outline an outline.
    """

    steps: int = 1000
    batch: int = 128
    peak_rate: float = 1e-3
    ema: float = 0.99
    token_drop: float = 0.5
    whole: float = 0.2
    recoloured: float = 0.15
    seed: int = 0
    bf16: bool = True


@dataclass(frozen=True)
class Captions:
    """Captions of B pictures, and what each says.

    Attributes:
        texts: B texts. names, styles: (B,) bool, whether the caption tells the subject, the style.
    """

    texts: list[str]
    names: Tensor
    styles: Tensor


def draw_captions(
    pictures: Pictures, keywords: Sequence[Sequence[str]], rows: Tensor, generator: torch.Generator
) -> Captions:
    """Captions of (B,) rows: most tell name and style, some one of them, half are in a template.

    Of 20 captions, 11 are "name, style phrase", 3 the name, 3 the style phrase, and 3 two of the
    picture's keywords with its style phrase.
    """
    count = len(rows)
    kinds = torch.randint(0, 20, (count,), generator=generator).tolist()
    picks = torch.randint(0, 2**30, (count, 3), generator=generator).tolist()
    framed = (torch.rand(count, generator=generator) < 0.5).tolist()
    texts = []
    for row, kind, pick, frame in zip(rows.tolist(), kinds, picks, framed, strict=True):
        name, style = pictures.names[row], pictures.styles[row]
        words = keywords[row]
        if kind < 3:
            text = name
        elif kind < 6:
            text = STYLE_PHRASES[style]
        elif kind < 9 and words:
            said = dict.fromkeys(words[choice % len(words)] for choice in pick[:2])
            text = caption(" ".join(said), style)
        else:
            text = caption(name, style)
        texts.append(TEMPLATES[pick[2] % len(TEMPLATES)].replace("{}", text) if frame else text)
    kind = torch.tensor(kinds)
    return Captions(texts, names=(kind < 3) | (kind >= 6), styles=kind >= 3)


def matches(captions: Captions, subjects: Tensor, styles: Tensor) -> Tensor:
    """Which captions are true of which pictures: (B, B) bool, pictures down, captions across.

    Args:
        subjects, styles: (B,) int64 of the pictures, which are also what their captions tell.
    """
    subject = (subjects[:, None] == subjects[None]) | ~captions.names[None]
    style = (styles[:, None] == styles[None]) | ~captions.styles[None]
    return subject & style


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


def companions(pictures: Pictures, rows: Tensor, generator: torch.Generator) -> Tensor:
    """For each of (B,) rows another row of its subject, or the row itself where it is alone."""
    of_subject: dict[str, list[int]] = {}
    for row, subject in enumerate(pictures.subjects):
        of_subject.setdefault(subject, []).append(row)
    picks = torch.randint(0, 2**30, (len(rows),), generator=generator).tolist()
    found = []
    for row, pick in zip(rows.tolist(), picks, strict=True):
        others = [other for other in of_subject[pictures.subjects[row]] if other != row]
        found.append(others[pick % len(others)] if others else row)
    return torch.tensor(found)


def numbered(labels: Sequence[str]) -> Tensor:
    """(N,) int64: each label's place among the sorted ones."""
    places = {label: place for place, label in enumerate(sorted(set(labels)))}
    return torch.tensor([places[label] for label in labels])


def load_keywords(path: str | Path, pictures: Pictures) -> list[list[str]]:
    """Keywords of each picture, in words ("mahjong_red_dragon" becomes three)."""
    table = pq.read_table(path, columns=["id", "keywords"])
    found = dict(zip(table["id"].to_pylist(), table["keywords"].to_pylist(), strict=True))
    return [[word.replace("_", " ") for word in found[key] or []] for key in pictures.ids]


@torch.no_grad()
def embed_texts(clip: open_clip.CLIP, texts: Sequence[str], tokenizer: SimpleTokenizer) -> Tensor:
    """(N, E) unit embeddings of N texts."""
    device = clip.positional_embedding.device
    tokens = tokenizer(list(texts)).to(device)
    parts = [clip.encode_text(part, normalize=True) for part in torch.split(tokens, 256)]
    return torch.cat(parts).cpu()


@torch.no_grad()
def embed_prompts(
    clip: open_clip.CLIP, prompts: Sequence[str], tokenizer: SimpleTokenizer
) -> Tensor:
    """(N, E) unit embeddings of N prompts, each a mean over templates, as in guidance."""
    framed = [template.replace("{}", prompt) for prompt in prompts for template in TEMPLATES]
    embedded = embed_texts(clip, framed, tokenizer).reshape(len(prompts), len(TEMPLATES), -1)
    return F.normalize(embedded.mean(1), dim=-1)


@torch.no_grad()
def embed_pictures(clip: open_clip.CLIP, pictures: Tensor) -> Tensor:
    """(N, E) unit embeddings of (N, 3, S, S) pictures in [-1, 1]."""
    device = clip.positional_embedding.device
    parts = [
        clip.encode_image(normalise(part.to(device), MEAN, STD), normalize=True)
        for part in torch.split(pictures, 64)
    ]
    return torch.cat(parts).cpu()


def evaluate(clip: open_clip.CLIP, val: Pictures, tokenizer: SimpleTokenizer) -> dict[str, float]:
    """The val metrics of `COLUMNS`, all of them shares right.

    style: the nearest of the style phrases. name: the picture's name, with its own style phrase,
    first (or among the first five) of the names in the split. caption: the picture's caption first
    of all captions in the split. direction: the target that guidance would aim at for "this
    subject, from its style into another" lies nearest to the right one of the subject's drawings.
    noisy: the same, seen through half of the noise and blur that pictures have in guidance.
    """
    clip.eval()
    known, subjects = sorted(set(val.styles)), sorted(set(val.subjects))
    styles, subject = numbered(val.styles), numbered(val.subjects)
    names = {s: name for s, name in zip(val.subjects, val.names, strict=True)}

    pictures = val.batch(torch.arange(len(val)))
    images = embed_pictures(clip, pictures)
    generator = torch.Generator().manual_seed(0)
    noisy = embed_pictures(clip, degrade(pictures, 1.0, generator, blur=1.0, noise=0.125))
    phrases = embed_prompts(clip, [STYLE_PHRASES[style] for style in known], tokenizer)
    said = [caption(names[s], style) for style in known for s in subjects]
    texts = embed_texts(clip, said, tokenizer).reshape(len(known), len(subjects), -1)

    name_scores = torch.einsum("ne,nse->ns", images, texts[styles])
    top = name_scores.topk(min(5, len(subjects)), dim=1).indices == subject[:, None]
    best = (images @ texts.flatten(0, 1).T).argmax(1)
    return {
        "val_style": float(((images @ phrases.T).argmax(1) == styles).float().mean()),
        "val_name_top1": float(top[:, 0].float().mean()),
        "val_name_top5": float(top.any(1).float().mean()),
        "val_caption_top1": float((best == styles * len(subjects) + subject).float().mean()),
        "val_direction": _direction(images, images, texts, styles, subject),
        "val_direction_noisy": _direction(images, noisy, texts, styles, subject),
    }


def _direction(
    images: Tensor, candidates: Tensor, texts: Tensor, styles: Tensor, subject: Tensor
) -> float:
    # Kwon & Ye 2023: target = E_T(prompt) - 0.4 E_T(source prompt) + 0.2 E_I(source).
    right, tried = 0, 0
    for row in range(len(images)):
        own = (subject == subject[row]).nonzero().flatten()
        for other in own.tolist():
            if other == row:
                continue
            prompt, source = texts[styles[other], subject[row]], texts[styles[row], subject[row]]
            target = prompt - 0.4 * source + 0.2 * images[row]
            right += int(own[(candidates[own] @ target).argmax()] == other)
            tried += 1
    return right / max(1, tried)


def write_retrieval(
    path: Path, clip: open_clip.CLIP, val: Pictures, tokenizer: SimpleTokenizer
) -> None:
    """Writes a sheet of the 12 val pictures nearest to a prompt each, one row per prompt.

    From above: the six style phrases, then "fruit", "face", "animal", "red heart, glossy 3d
    render".
    """
    prompts = [*STYLE_PHRASES.values(), "fruit", "face", "animal", "red heart, glossy 3d render"]
    pictures = val.batch(torch.arange(len(val)))
    scores = embed_prompts(clip.eval(), prompts, tokenizer) @ embed_pictures(clip, pictures).T
    # Every 5th of the 60 nearest: the nearest alone look better than what guidance will meet.
    nearest = scores.topk(min(60, len(val)), dim=1).indices[:, ::5]
    write_sheet(path, [pictures[row] for row in nearest], scale=1)


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
