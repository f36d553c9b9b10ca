"""Requests that cannot be carried out are refused when they are made, by the row's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dstc_engine.errors import RequestError
from dstc_engine.request import TranslationRequest
from tests.unit.dstc_engine.tiny import image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "style and prompt are both empty"),
        ({"prompt": "  "}, "style and prompt are both empty"),
        ({"content": image(1).astype(np.float32)}, "content is float32"),
        ({"content": image(1)[..., 0]}, "content is uint8 (16, 16)"),
        ({"style": np.zeros((4, 4, 4), np.uint8)}, "style is uint8 (4, 4, 4)"),
        ({"mask": np.zeros((4, 16), np.uint8)}, "mask is (4, 16); expected the content's (16, 16)"),
        ({"seed": -1}, "seed is -1; expected 0 .. 2**63 - 1"),
        ({"seed": 2**63}, f"seed is {2**63}"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = dict(id="cat-0192", content=image(1), seed=0, prompt="a fox")
    TranslationRequest(**fields)
    with pytest.raises(RequestError) as caught:
        TranslationRequest(**(fields | changes))
    assert str(caught.value).startswith("row 'cat-0192': ") and message in str(caught.value)
