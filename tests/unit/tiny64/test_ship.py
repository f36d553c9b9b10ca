"""Weights that ship: float16, and of CLIP's vocabulary the tokens that it was taught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dstc_engine.weights.load import load_clip
from tests.drawings import write_drawings
from tests.tiny_training import CLIP, CLIP_TRAINING, SIZE
from tiny64.clip_training import train_clip
from tiny64.release import ship


def test_a_clip_keeps_the_tokens_of_its_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_drawings(tmp_path / "emoji.parquet", size=SIZE)
    weights = train_clip(data, tmp_path / "run", CLIP, CLIP_TRAINING)
    folder = tmp_path / "shipped"
    arguments = ["ship", str(weights), str(folder), "--captions", str(data)]
    monkeypatch.setattr("sys.argv", arguments)
    ship.main()

    stored = load_file(folder / "clip.safetensors")
    kept = stored["token_embedding.weight.rows"]
    assert 50 < len(kept) < 1000
    assert stored["token_embedding.weight"].dtype == torch.float16
    assert (folder / "clip.safetensors").stat().st_size < weights.stat().st_size / 10

    whole = load_clip(str(weights.with_suffix(".json")))
    short = load_clip(str(folder / "clip.json"))
    assert (
        json.loads((folder / "clip.json").read_text())["architecture"]
        == json.loads(weights.with_suffix(".json").read_text())["architecture"]
    )
    known = [whole.embed_text(text) for text in ("shape 3, flat cartoon drawing", "a shape")]
    again = [short.embed_text(text) for text in ("shape 3, flat cartoon drawing", "a shape")]
    torch.testing.assert_close(again, known, atol=2e-3, rtol=0)
    # Words of no caption are all alike.
    torch.testing.assert_close(short.embed_text("zebra"), short.embed_text("tiger"))
