"""Validation of the small CLIP: metrics for the log, and a sheet of what it retrieves.

N images or texts, E width of the shared embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from dstc_engine.training.images import ImageSet
from dstc_engine.training.sheet import write_sheet
from tiny64.captions import STYLE_PHRASES, caption
from tiny64.clip import MEAN, STD
from tiny64.clip_captions import TEMPLATES, numbered
from tiny64.views import degrade, normalize


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
def embed_images(clip: open_clip.CLIP, images: Tensor) -> Tensor:
    """(N, E) unit embeddings of (N, 3, S, S) images in [-1, 1]."""
    device = clip.positional_embedding.device
    parts = [
        clip.encode_image(normalize(part.to(device), MEAN, STD), normalize=True)
        for part in torch.split(images, 64)
    ]
    return torch.cat(parts).cpu()


def evaluate(clip: open_clip.CLIP, val: ImageSet, tokenizer: SimpleTokenizer) -> dict[str, float]:
    """The val metrics of `COLUMNS`, all of them shares right.

    style: the nearest of the style phrases. name: the image's name, with its own style phrase,
    first (or among the first five) of the names in the split. caption: the image's caption first
    of all captions in the split. direction: the target that guidance would aim at for "this
    subject, from its style into another" lies nearest to the right one of the subject's drawings.
    noisy: the same, seen through half of the noise and blur that images have in guidance. Of own
    images only name is told: the image's caption first of all in the split.
    """
    clip.eval()
    if val.is_own:
        return _evaluate_own(clip, val, tokenizer)
    known, subjects = sorted(set(val.styles)), sorted(set(val.subjects))
    styles, subject = numbered(val.styles), numbered(val.subjects)
    names = {s: name for s, name in zip(val.subjects, val.names, strict=True)}

    pixels = val.batch(torch.arange(len(val)))
    images = embed_images(clip, pixels)
    generator = torch.Generator().manual_seed(0)
    noisy = embed_images(clip, degrade(pixels, 1.0, generator, blur=1.0, noise=0.125))
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


def _evaluate_own(
    clip: open_clip.CLIP, val: ImageSet, tokenizer: SimpleTokenizer
) -> dict[str, float]:
    images = embed_images(clip, val.batch(torch.arange(len(val))))
    texts = embed_texts(clip, sorted(set(val.names)), tokenizer)
    top = (images @ texts.T).topk(min(5, len(texts)), dim=1).indices == numbered(val.names)[:, None]
    return {
        "val_name_top1": float(top[:, 0].float().mean()),
        "val_name_top5": float(top.any(1).float().mean()),
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
    path: Path, clip: open_clip.CLIP, val: ImageSet, tokenizer: SimpleTokenizer
) -> None:
    """Writes a sheet of the 12 val images nearest to a prompt each, one row per prompt.

    From above: the six style phrases, then "fruit", "face", "animal", "red heart, glossy 3d
    render". Of own images the prompts are ten of their captions.
    """
    prompts = [*STYLE_PHRASES.values(), "fruit", "face", "animal", "red heart, glossy 3d render"]
    if val.is_own:
        captions = sorted(set(val.names))
        prompts = captions[:: -(-len(captions) // 10)]
    images = val.batch(torch.arange(len(val)))
    scores = embed_prompts(clip.eval(), prompts, tokenizer) @ embed_images(clip, images).T
    # Every 5th of the 60 nearest: the nearest alone look better than what guidance will meet.
    nearest = scores.topk(min(60, len(val)), dim=1).indices[:, ::5]
    write_sheet(path, [images[row] for row in nearest], scale=1)
