"""Checkpoints of a training run: whole or not there, so that a killed run goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dstc_engine.durable import move_into_place


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path` at once: a kill leaves the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    move_into_place(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved, on the CPU; None when there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
