"""Turns a training run into weights that ship: float16 safetensors and a description beside them.

python -m tiny64.release.ship RUN/prior.safetensors dstc_engine/weights/tiny
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def ship(weights: Path, description: dict[str, Any], folder: Path) -> Path:
    """Writes `folder/<name>.safetensors` in float16 and `<name>.json` with sha256 and size added.

    Whole-number tensors keep their type. Returns the path of the weights.
    """
    state = {
        name: tensor.to(torch.float16).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(weights).items()
    }
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
    args = parser.parse_args()
    description = json.loads(args.weights.with_suffix(".json").read_text())
    print(ship(args.weights, description, args.folder))


if __name__ == "__main__":
    main()
