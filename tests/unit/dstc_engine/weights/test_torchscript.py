"""Archives as OpenAI publishes them: all tensors, and no code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from dstc_engine.weights import torchscript
from tests.unit.dstc_engine.weights.archives import Tree, save_archive


@pytest.fixture
def tree() -> Tree:
    network = Tree().eval()
    network.visual.half()  # OpenAI's files mix precisions
    return network


@pytest.fixture
def archive(tree: Tree, tmp_path: Path) -> Path:
    return save_archive(tree.float(), torch.randn(1, 3, 8, 8), tmp_path / "tree.pt")


def test_every_tensor_under_its_path(tree: Tree, archive: Path) -> None:
    found = torchscript.read_archive(archive)
    expected = tree.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name


def test_half_precision_stays(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2).half()
    path = save_archive(network, torch.randn(1, 3).half(), tmp_path / "half.pt")
    assert torchscript.read_archive(path)["weight"].dtype == torch.float16


def test_other_zips_are_no_archives(tmp_path: Path, archive: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pt")
    (tmp_path / "no.zip").write_bytes(b"no zip")
    assert torchscript.is_archive(archive)
    assert not torchscript.is_archive(tmp_path / "plain.pt")
    assert not torchscript.is_archive(tmp_path / "no.zip")


class _Hostile:
    def __reduce__(self) -> object:
        import os

        return os.system, ("touch should-not-be",)


def test_a_tree_that_names_anything_else_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = tmp_path / "hostile.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(hostile, "w") as target:
        for name in source.namelist():
            is_tree = name.endswith("/data.pkl")
            target.writestr(name, pickle.dumps(_Hostile()) if is_tree else source.read(name))
    with pytest.raises(pickle.UnpicklingError, match="posix.system, which is no tensor"):
        torchscript.read_archive(hostile)
    assert not (tmp_path / "should-not-be").exists()


def test_its_code_is_never_opened(archive: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(stripped, "w") as target:
        for name in source.namelist():
            if "/code/" not in name:
                target.writestr(name, source.read(name))
    assert torchscript.read_archive(stripped).keys() == torchscript.read_archive(archive).keys()
