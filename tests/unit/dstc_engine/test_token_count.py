from __future__ import annotations

import pytest

from dstc_engine.token_count import count_tokens


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a dog", 2), ("a watercolor of a dog", 5)])
def test_tokens_are_counted_without_start_and_end(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens
