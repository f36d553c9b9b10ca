"""The tensors of a TorchScript archive, read without running its code.

OpenAI publishes CLIP in this form. Such an archive is a zip: `data.pkl` holds the tree of modules,
`data/<key>` the bytes of their tensors, `code/` a program. PyTorch's own reader compiles the
program. This one never opens it, and its unpickler knows three things: how a tensor is rebuilt from
bytes, lists of numbers, and that any class of the archive itself is a bag of attributes.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
_LISTS = frozenset({"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"})


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive; PyTorch's other zips hold no constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """Every tensor of the modules' tree by its path, "visual.conv1.weight".

    Raises:
        pickle.UnpicklingError: the tree names something else than tensors and its own classes.
        KeyError, ValueError: bytes are missing, or fewer than a tensor needs.
    """
    with zipfile.ZipFile(path) as archive:
        (tree,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = tree.removesuffix("data.pkl")
        with archive.open(tree) as file:
            module = _Unpickler(file, archive, root).load()
    return dict(_tensors(module, ""))


def _tensors(module: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, Tensor):
        yield path, module
    elif isinstance(module, _Module):
        for name, value in module.attributes.items():
            yield from _tensors(value, f"{path}.{name}" if path else name)


class _Module:
    """An object of a class that the archive defines: its attributes, and none of its methods."""

    def __init__(self, *arguments: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self._archive, self._root = archive, root
        self._read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        raise pickle.UnpicklingError(f"the archive names {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"the archive refers to {kind!r}; expected a storage")
        if key not in self._read:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._read[key] = torch.frombuffer(data, dtype=dtype, count=count)
        return self._read[key]


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)
