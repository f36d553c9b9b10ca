"""Files of weights to state dicts, without running anything that a file brings along."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dstc_engine.errors import WeightsError
from dstc_engine.weights import torchscript

# What some publishers wrap a state dict in.
_WRAPPERS = ("state_dict", "model", "model_ema", "teacher")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict as it is stored: .safetensors, a PyTorch file of tensors, a TorchScript archive.

    Raises:
        WeightsError: the file cannot be read, or holds something else; PyTorch files are read
            weights-only, and the code of a TorchScript archive is not looked at.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if torchscript.is_archive(path):
            return torchscript.read_archive(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip readers raise a dozen unrelated types
        raise WeightsError(f"{path}: not readable as weights ({error})") from error
    return _unwrapped(path, found)


def _unwrapped(path: Path, found: Any) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        inside = [name for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
        if len(inside) > 1:  # trained and averaged weights, say: another image each
            raise WeightsError(
                f"{path}: holds several networks, {', '.join(inside)}; expected one: save it alone"
            )
        found = found[inside[0]] if inside else found
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        shown = type(found).__name__
        if isinstance(found, Mapping):
            shown = ", ".join(f"{k}: {type(v).__name__}" for k, v in list(found.items())[:3])
        raise WeightsError(
            f"{path}: not readable as weights; expected tensors by name, found {shown}"
        )
    return dict(found)


def without(state: Mapping[str, Tensor], unread: Sequence[str]) -> dict[str, Tensor]:
    """The tensors whose names match none of the patterns."""
    return {
        name: tensor
        for name, tensor in state.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in unread)
    }


def in_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in float32, the others as they are."""
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def with_all_rows(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Spreads matrices that were stored without their empty rows.

    Of a text encoder's vocabulary a small data set teaches some thousand tokens; the others say
    nothing, and are not stored (`tiny64/release/ship.py`).

    Args:
        state: `<name>.rows`, (K,) whole numbers, says which rows the (K, D) of `<name>` are.
        expected: name to shape, (N, D) of `<name>`.

    Returns:
        (N, D) of each such `<name>`, the other rows zero, and the other tensors as they are. What
        does not fit is left as it is, for `check_layout` to name.
    """
    found = dict(state)
    for name, stored in state.items():
        rows, shape = state.get(f"{name}.rows"), expected.get(name, ())
        if rows is None or len(shape) != 2 or stored.shape != (len(rows), shape[1]):
            continue
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < shape[0]:
            continue
        found[name] = stored.new_zeros(shape).index_copy(0, rows.long(), stored)
        del found[f"{name}.rows"]
    return found


def check_layout(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Compares names and shapes.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape; the first few are named.
    """
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:5])
        raise WeightsError(f"{path}: {len(wrong)} tensors do not fit: {shown}")


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name to shape."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
