"""How many tokens a text is, as CLIP counts them."""

from __future__ import annotations

import functools
from typing import Any

# Tokens that every CLIP reads of a text, its start and end among them; what follows is cut off.
CONTEXT_LENGTH = 77


@functools.lru_cache(maxsize=1)
def _tokenizer() -> Any:
    import open_clip  # brings torch

    return open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)


def count_tokens(text: str) -> int:
    """The tokens of a text, start and end left out.

    Args:
        text: a few thousand characters at most: a word takes time by the square of its length.

    Example:
        count_tokens("a watercolor of a dog")
    """
    return len(_tokenizer().encode(text))
