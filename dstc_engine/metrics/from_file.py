"""State dicts of evaluation models, from files as their publishers hand them out."""

from __future__ import annotations

from typing import IO

import torch
from torch import Tensor

from dstc_engine.errors import WeightsError


def read_state_dict(file: IO[bytes], name: str) -> dict[str, Tensor]:
    """Tensors by name; nothing in the file is run.

    Raises:
        WeightsError: something else is in it.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own and pickle's types
        raise WeightsError(
            f"weights of {name}: not a state dict of PyTorch ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"weights of {name}: expected a state dict, tensors by name")
    return state
