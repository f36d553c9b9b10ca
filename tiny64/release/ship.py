"""Turns a training run into weights that ship: float16 safetensors and a description beside them.

    python -m tiny64.release.ship RUN/prior.safetensors FOLDER
    python -m tiny64.release.ship RUN/clip.safetensors FOLDER --captions data/emoji-64.parquet

Of CLIP's 49,408 tokens the captions of the emoji data set have some 3,900. The others were never
trained: with `--captions` they are left out, 7 MB of 16 are left, and words that CLIP does not know
say nothing, where they were noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dstc_engine.training.images import load_training
from tiny64.clip_captions import load_keywords, tokens_of

_TOKENS = "token_embedding.weight"


def ship(
    weights: Path,
    description: dict[str, Any],
    folder: Path,
    tokens: Sequence[int] | None = None,
) -> Path:
    """Writes `folder/<name>.safetensors` in float16 and `<name>.json` with sha256 and size added.

    Whole-number tensors keep their type.

    Args:
        tokens: of a CLIP model, the only ones whose embeddings are kept (`with_all_rows`); None:
            all of them.

    Returns:
        The path of the weights.
    """
    state = {
        name: tensor.to(torch.float16).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(weights).items()
    }
    if tokens is not None:
        rows = torch.tensor(tokens)
        state |= {_TOKENS: state[_TOKENS][rows], f"{_TOKENS}.rows": rows.to(torch.int32)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / weights.name
    save_file(state, path)
    data = path.read_bytes()
    sidecar = {**description, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Make trained weights ready to ship.")
    parser.add_argument("weights", type=Path, help="safetensors of a run")
    parser.add_argument("folder", type=Path, help="where the shipped files go")
    parser.add_argument("--captions", type=Path, help="Parquet of `dstc emoji build`, for CLIP")
    args = parser.parse_args()
    description = json.loads(args.weights.with_suffix(".json").read_text())
    tokens = None
    if args.captions:
        every = load_training(args.captions, every_style=True)
        tokens = tokens_of(every, load_keywords(args.captions, every))
    print(ship(args.weights, description, args.folder, tokens))


if __name__ == "__main__":
    main()
