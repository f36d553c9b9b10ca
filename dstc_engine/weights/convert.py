"""Converts published weights to safetensors: tensors, their names, nothing else."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dstc_engine.durable import move_into_place
from dstc_engine.errors import WeightsError
from dstc_engine.weights.architectures import clip_sizes, layout
from dstc_engine.weights.formats import check_layout, read_tensors, shapes, without
from dstc_engine.weights.record import Weights
from dstc_engine.weights.registry import file_sha256

_MODE = 0o644


def convert(
    weights: Weights, original: Path, folder: Path, upstream_sha256: str, published: bool
) -> Path:
    """Writes `folder/<name>.safetensors`, and then the sidecar that tells where it came from.

    Numbers keep the precision they were published in. Names that only the published file has
    (`Weights.unread`) are left out.

    Args:
        original: the published file. upstream_sha256: of its bytes. published: that sum was
            compared with one that the publisher gives.

    Raises:
        WeightsError: the file is no weights, or not those of this entry: every name and shape is
            compared with the network's.
        OSError: the folder cannot be written.
    """
    state = read_tensors(original)
    if weights.kind == "clip":
        _check_numbers(weights, state, original)
    state = without(state, weights.unread)
    check_layout(shapes(state), layout(weights), original)
    path = folder / f"{weights.name}.safetensors"
    temporary = folder / f".{weights.name}-{uuid.uuid4().hex}.tmp"
    try:
        save_file(_each_its_own(state), temporary)
        description = {
            "name": weights.name,
            "source": weights.source,
            "file": weights.file,
            "upstream_sha256": upstream_sha256,
            "upstream_published": published,
            "sha256": file_sha256(temporary),
            "size": temporary.stat().st_size,
            "fetched": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        temporary.chmod(_MODE)  # the library keeps the file to its owner; nodes may share folders
        move_into_place(temporary, path)
        # The sidecar last, and whole: what lacks one is no weights.
        temporary.write_text(json.dumps(description, indent=2) + "\n")
        move_into_place(temporary, path.with_suffix(".json"))
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _each_its_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors that share memory or skip over some, which have no place in the format.

    Others stay as they are: a copy of all would take another 2.2 GB for the largest prior.
    """
    own, taken = {}, set[int]()
    for name, tensor in state.items():
        memory = tensor.untyped_storage()
        whole = tensor.is_contiguous() and memory.nbytes() == tensor.nbytes
        if not whole or memory.data_ptr() in taken:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        taken.add(tensor.untyped_storage().data_ptr())
        own[name] = tensor
    return own


def _check_numbers(weights: Weights, state: Mapping[str, Tensor], original: Path) -> None:
    """OpenAI's files say three sizes as numbers, too."""
    sizes = clip_sizes(weights)
    for name, expected in (
        ("input_resolution", sizes["vision_cfg"]["image_size"]),
        ("context_length", sizes["text_cfg"]["context_length"]),
        ("vocab_size", sizes["text_cfg"]["vocab_size"]),
    ):
        if name in state and int(state[name]) != expected:
            raise WeightsError(f"{original}: {name} is {int(state[name])}, expected {expected}")
