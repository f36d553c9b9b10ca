"""Captions that the small CLIP is trained on, and which images of a batch each is true of.

B, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dstc_engine.training.images import ImageSet
from tiny64.captions import OTHER_PHRASES, STYLE_PHRASES

# The list that guidance averages over: open_clip's, less one that the method's authors left out.
TEMPLATES = [
    text
    for text in (template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if text != "a photo of many {}."
]


@dataclass(frozen=True)
class Captions:
    """Captions of B images, and what each says.

    Attributes:
        texts: B texts. names, styles: (B,) bool, whether the caption tells the subject, the style.
    """

    texts: list[str]
    names: Tensor
    styles: Tensor


def draw_captions(
    images: ImageSet, keywords: Sequence[Sequence[str]], rows: Tensor, generator: torch.Generator
) -> Captions:
    """Captions of (B,) rows: most tell name and style, some one of them, half are in a template.

    Of 20 captions, 11 are "name, style phrase", 3 the name, 3 the style phrase, and 3 two of the
    image's keywords with its style phrase. Own images without a look have their name alone, others
    the name of the look for a phrase.
    """
    count = len(rows)
    kinds = torch.randint(0, 20, (count,), generator=generator).tolist()
    picks = torch.randint(0, 2**30, (count, 3), generator=generator).tolist()
    framed = (torch.rand(count, generator=generator) < 0.5).tolist()
    texts = []
    looks = [phrase_of(images.styles[row]) for row in rows.tolist()]
    for row, look, kind, pick, frame in zip(
        rows.tolist(), looks, kinds, picks, framed, strict=True
    ):
        name, words = images.names[row], keywords[row]
        if kind < 3 or not look:
            text = name
        elif kind < 6:
            text = look
        elif kind < 9 and words:
            said = dict.fromkeys(words[choice % len(words)] for choice in pick[:2])
            text = f"{' '.join(said)}, {look}"
        else:
            text = f"{name}, {look}"
        texts.append(TEMPLATES[pick[2] % len(TEMPLATES)].replace("{}", text) if frame else text)
    kind = torch.tensor(kinds)
    has_look = torch.tensor([bool(look) for look in looks])
    return Captions(texts, (kind < 3) | (kind >= 6) | ~has_look, (kind >= 3) & has_look)


def phrase_of(style: str) -> str:
    """What a style is called in words: of an own look its name, "" where an image has none."""
    return STYLE_PHRASES.get(style) or OTHER_PHRASES.get(style, style)


def matches(captions: Captions, subjects: Tensor, styles: Tensor) -> Tensor:
    """Which captions are true of which images: (B, B) bool, images down, captions across.

    Args:
        subjects, styles: (B,) int64 of the images, which are also what their captions tell.
    """
    subject = (subjects[:, None] == subjects[None]) | ~captions.names[None]
    style = (styles[:, None] == styles[None]) | ~captions.styles[None]
    return subject & style


def companions(
    images: ImageSet, rows: Tensor, generator: torch.Generator, count: int = 1
) -> Tensor:
    """For each of (B,) rows `count` others of its subject: (count * B,).

    Each of them once, as far as there are so many; the row itself where it is alone.
    """
    of_subject: dict[str, list[int]] = {}
    for row, subject in enumerate(images.subjects):
        of_subject.setdefault(subject, []).append(row)
    picks = torch.randint(0, 2**30, (len(rows),), generator=generator).tolist()
    found = []
    for row, pick in zip(rows.tolist(), picks, strict=True):
        others = [other for other in of_subject[images.subjects[row]] if other != row] or [row]
        found.append([others[(pick + number) % len(others)] for number in range(count)])
    return torch.tensor(found, dtype=torch.int64).T.flatten()


def numbered(labels: Sequence[str]) -> Tensor:
    """(N,) int64: each label's place among the sorted ones."""
    places = {label: place for place, label in enumerate(sorted(set(labels)))}
    return torch.tensor([places[label] for label in labels])


def tokens_of(images: ImageSet, keywords: Sequence[Sequence[str]]) -> list[int]:
    """The tokens that captions of these images may have, in order; see `draw_captions`."""
    tokenizer = open_clip.SimpleTokenizer(context_length=77)
    looks = {phrase_of(style) for style in images.styles}
    words = {word for each in keywords for word in each}
    texts = {*TEMPLATES, *images.names, *looks, *words, "name, look"}
    return sorted({token for text in sorted(texts) for token in tokenizer([text])[0].tolist()})


def load_keywords(path: str | Path, images: ImageSet) -> list[list[str]]:
    """Keywords of each image, in words ("mahjong_red_dragon" becomes three)."""
    table = pq.read_table(path, columns=["id", "keywords"])
    found = dict(zip(table["id"].to_pylist(), table["keywords"].to_pylist(), strict=True))
    return [[word.replace("_", " ") for word in found[key] or []] for key in images.ids]
