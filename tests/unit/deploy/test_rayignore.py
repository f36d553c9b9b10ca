"""What `--working-dir .` brings to the nodes: all the code, and nothing that is large or secret."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.unit.deploy.files import REPOSITORY


def working_directory(folder: Path, into: Path) -> dict[str, int]:
    """Names and sizes of the files that Ray would upload, packed by Ray's own (private) code."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    excludes = get_runtime_env_default_excludes()
    create_package(str(folder), into, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(into) as package:
        return {each.filename: each.file_size for each in package.infolist() if not each.is_dir()}


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return working_directory(REPOSITORY, tmp_path_factory.mktemp("package") / "package.zip")


def test_all_code_travels(brought: dict[str, int]) -> None:
    for package in ("dstc_engine", "dstc", "tiny64", "jobs"):
        for pattern in ("*.py", "*.j2", "*.json"):
            for path in (REPOSITORY / package).rglob(pattern):
                assert str(path.relative_to(REPOSITORY)) in brought


def test_weights_and_data_stay(brought: dict[str, int]) -> None:
    heavy = (".safetensors", ".pt", ".pth", ".parquet", ".png", ".zip")
    assert not [name for name in brought if name.endswith(heavy)]
    assert sum(brought.values()) < 5e6


def test_what_lies_about_in_a_checkout_stays(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in (
        *("jobs/translate.py", "dstc_engine/weights/tiny/prior.json", "benchmarks/bench.py"),
        *("dstc_engine/weights/tiny/prior.safetensors", "weights/256x256.pt", ".env", "my.pem"),
        *("demo-output/images/3f/a.png", "data/emoji.parquet", "runs/prior/log.jsonl"),
        *(".git/config", ".venv/bin/python", ".mypy_cache/x", "jobs/__pycache__/translate.pyc"),
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    for ignored in (".gitignore", ".rayignore"):
        (checkout / ignored).write_bytes((REPOSITORY / ignored).read_bytes())
    assert set(working_directory(checkout, tmp_path / "package.zip")) == {
        "jobs/translate.py",
        "dstc_engine/weights/tiny/prior.json",
        "benchmarks/bench.py",
        ".gitignore",
        ".rayignore",
    }
