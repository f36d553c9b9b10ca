from __future__ import annotations

from tests.tiny_training import CLIP


def test_token_drop_changes_no_weight_name() -> None:
    assert CLIP.build(0.5).state_dict().keys() == CLIP.build().state_dict().keys()
