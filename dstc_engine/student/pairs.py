"""What a student learns from: contents with their guided results, by looks.

N pairs of S x S pixels, L looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dstc_engine.errors import UserError
from dstc_engine.image import fit
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, TranslationRequest
from dstc_engine.student.looks import Look, style_digest

_PARTS = 10_000


@dataclass(frozen=True, eq=False)
class LookExample:
    """A look of a pilot, by one of the requests that ask for it.

    Attributes:
        look: equal for all of them. request: one of them. style: the style's URI, for people.
    """

    look: Look
    request: TranslationRequest
    style: str | None


@dataclass(frozen=True)
class LookCount:
    """Rows of a look: its name for people, how many, and of them to train and to validate on."""

    name: str
    rows: int
    split: tuple[int, int] | None = None

    def __str__(self) -> str:
        sides = self.split and f" ({self.split[0]} to train on, {self.split[1]} to validate on)"
        return f"{self.name}: {self.rows} rows{sides or ''}"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Contents and what guidance made of them.

    Attributes:
        contents, results: (N, 3, S, S) uint8. looks: (N,) int64, of `examples`.
        in_val: (N,) bool. All pairs of a content are on one side.
        examples: L looks.
    """

    contents: Tensor
    results: Tensor
    looks: Tensor
    in_val: Tensor
    examples: tuple[LookExample, ...]

    def __len__(self) -> int:
        return len(self.looks)

    def rows(self, val: bool, look: int | None = None) -> Tensor:
        """(K,) int64: the numbers of the pairs to train on, or to validate on; of one look."""
        chosen = self.in_val == val
        if look is not None:
            chosen &= self.looks == look
        return chosen.nonzero()[:, 0]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) int64 to contents and results, (B, 3, S, S) float32 in [-1, 1]."""
        contents, results = self.contents[rows], self.results[rows]
        return contents.float() / 127.5 - 1, results.float() / 127.5 - 1


def is_val(content: ImageArray, share: float) -> bool:
    """Whether a content (S, S, 3) uint8 is one to validate on, by a hash of its pixels."""
    digest = hashlib.sha256(content.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") % _PARTS < share * _PARTS


class PairsBuilder:
    """Gathers pairs one by one.

    Args:
        preset: of the pilot. val_share: of the contents, 0 to 1.

    Example:
        builder = PairsBuilder(preset, val_share=0.1)
        builder.add(request, result, style="s3://bucket/bear.png")
        pairs = builder.build(least_rows=64)
    """

    def __init__(self, preset: Preset, val_share: float) -> None:
        self._preset = preset
        self._share = val_share
        self._contents: list[Tensor] = []
        self._results: list[Tensor] = []
        self._looks: list[int] = []
        self._in_val: list[bool] = []
        self._examples: dict[Look, LookExample] = {}
        self._numbers: dict[Look, int] = {}
        self._digests: dict[str, str] = {}

    def add(self, request: TranslationRequest, result: ImageArray, style: str | None) -> None:
        """Adds a pair.

        Args:
            request: of the row. result: (H, W, 3) uint8, the finished image. style: its URI, by
                which equal styles are told; None without one.
        """
        size, mode = self._preset.image_size, self._preset.fit
        content = fit(request.content, size, mode)
        look = Look(self._style(request, style), request.prompt)
        if look not in self._examples:
            self._examples[look] = LookExample(
                look, request, style if request.style is not None else None
            )
        self._contents.append(_as_tensor(content))
        # Padding that was cut off comes back as it was: white.
        self._results.append(_as_tensor(fit(result, size, mode)))
        self._looks.append(self._numbers.setdefault(look, len(self._numbers)))
        self._in_val.append(is_val(content, self._share))

    def build(self, least_rows: int) -> Pairs:
        """The pairs added so far.

        Args:
            least_rows: that each look must have.

        Raises:
            UserError: there is none; or a look has fewer, or none to train or to validate on.
        """
        if not self._looks:
            raise UserError("no pair of content and result; expected rows that are done")
        pairs = Pairs(
            contents=torch.stack(self._contents),
            results=torch.stack(self._results),
            looks=torch.tensor(self._looks),
            in_val=torch.tensor(self._in_val),
            examples=tuple(self._examples.values()),
        )
        counts = []
        for number, example in enumerate(pairs.examples):
            train, val = (len(pairs.rows(side, number)) for side in (False, True))
            name = look_name(example.style, example.look.prompt)
            counts.append(LookCount(name, train + val, (train, val)))
        refuse_small_looks(counts, least_rows)
        return pairs

    def _style(self, request: TranslationRequest, uri: str | None) -> str | None:
        if request.style is None:
            return None
        if uri is None:
            return style_digest(request.style, self._preset)
        if uri not in self._digests:
            self._digests[uri] = style_digest(request.style, self._preset)
        return self._digests[uri]


def look_name(style: str | None, prompt: str | None) -> str:
    """A look by the URI of its style image and its prompt, for people."""
    parts = [f"style {style}"] if style else []
    parts += [f"prompt {prompt!r:.60}"] if prompt else []
    return ", ".join(parts) or "a style image"


def refuse_small_looks(found: Sequence[LookCount], least_rows: int) -> None:
    """Makes sure that each look has enough pairs.

    Raises:
        UserError: one has too few, or none on one side; the first few are named.
    """
    small = [
        look for look in found if look.rows < least_rows or (look.split and not all(look.split))
    ]
    if not small:
        return
    more = f"; and {len(small) - 3} more" if len(small) > 3 else ""
    raise UserError(
        f"{len(small)} of {len(found)} looks have too few rows: "
        f"{'; '.join(map(str, small[:3]))}{more}. Expected {least_rows} or more of each, some to "
        "train and some to validate on: give a larger pilot, one of fewer looks, or another "
        "least_rows"
    )


def _as_tensor(image: ImageArray) -> Tensor:
    """(S, S, 3) uint8 to (3, S, S)."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)
