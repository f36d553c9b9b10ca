"""Published files to safetensors: tensors and nothing else, with a description beside them."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

from safetensors.torch import save_file

from dstc_engine.weights.load import read_state
from dstc_engine.weights.registry import Weights, file_sha256


def convert(
    weights: Weights, original: Path, folder: Path, upstream_sha256: str, published: bool
) -> Path:
    """Writes `<name>.safetensors`, and `<name>.json` after it.

    Args:
        weights: of the registry. original: the file as published, read without running code.
        folder: for both. upstream_sha256: of `original`. published: its publisher names that sum.

    Returns:
        The converted file.

    Raises:
        WeightsError: the file cannot be read, or holds something else.
        OSError: the folder cannot be written.
    """
    state = read_state(original)
    path, note = folder / f"{weights.name}.safetensors", folder / f"{weights.name}.json"
    part = path.with_name(f".{path.name}.part")
    note.unlink(missing_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, part)
    os.replace(part, path)
    told = {
        "name": weights.name,
        "source": weights.source,
        "file": weights.file,
        "upstream_sha256": upstream_sha256,
        "upstream_published": published,
        "sha256": file_sha256(path),
        "size": path.stat().st_size,
        "fetched": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    note.write_text(json.dumps(told, indent=2) + "\n")
    return path
