from __future__ import annotations

import random
import string

import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from torch import Tensor, nn

from dstc_engine.encoders.clip import MOST_CHARACTERS, TEMPLATES, Clip

TOKENIZER = SimpleTokenizer(context_length=77)


class SaysItsTokens(nn.Module):
    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float()


def clip(tokenizer: object = TOKENIZER) -> Clip:
    return Clip(SaysItsTokens(), tokenizer, 64, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "a red fox, " * 400,
        "\n\t a   " * 2000,
        "=" * 6000,
        "-=" * 2000,
        "\N{SMILING FACE WITH HEART-SHAPED EYES}" * 3000,
        "\N{CJK UNIFIED IDEOGRAPH-72D0}" * 3000,
        "ab" * 1400,
    ],
    ids=["words", "blanks", "longest tokens", "marks", "emoji", "no blanks", "a word"],
)
def test_what_is_cut_is_not_what_the_tower_sees(text: str) -> None:
    whole = TOKENIZER([template(text) for template in TEMPLATES]).float()
    assert torch.equal(clip().embed_text(text), F.normalize(whole.mean(dim=0), dim=-1))


@pytest.mark.parametrize("length", [16_000, 1_000_000])
def test_a_word_without_end_is_never_read_to_its_end(length: int) -> None:
    lengths = []

    def tokenizer(texts: list[str]) -> Tensor:
        lengths.extend(map(len, texts))
        return torch.ones(len(texts), 77, dtype=torch.long)

    clip(tokenizer).embed_text("".join(random.Random(0).choices(string.ascii_letters, k=length)))
    assert max(lengths) <= MOST_CHARACTERS + 60
