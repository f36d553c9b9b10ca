"""Copies tensors between the CPU and the device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU, on the device.

    From ordinary memory PyTorch waits until a copy to a GPU has ended, and with it all work that
    was asked for before. Page-locked memory is read by the GPU when its turn comes, and PyTorch
    gives it to nobody else until then.
    """
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> Tensor:
    """A tensor of the device, on the CPU; to be read once the device has been waited for.

    PyTorch copies it to page-locked memory when its turn comes: any later wait for a value of the
    same stream, such as the step's one, is one for this too.
    """
    return tensor.to("cpu", non_blocking=True)
