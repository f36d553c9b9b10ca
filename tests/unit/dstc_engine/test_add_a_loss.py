"""docs/add-a-loss.md, followed to the letter on a copy of the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from dstc_engine.models import Models
from tests.unit.dstc_engine.tiny import KINDS, request, run

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "add-a-loss.md").read_text()
# The commands that the page names, and its tests.
TESTS = [
    "tests/unit/dstc_engine/losses/test_variation.py",
    "tests/unit/dstc_engine/guidance/test_guide.py",
    "tests/unit/dstc_engine/test_in_use.py",
]


def blocks() -> list[tuple[str, str, str]]:
    """Kind, text and file of each block: the file is the last one that the page named before."""
    found = []
    for block in re.finditer(r"^```(python|diff)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        file = re.findall(r"`([\w/]+\.py)`", PAGE[: block.start()])[-1]
        found.append((block[1], block[2], file))
    return found


def follow_the_page(folder: Path) -> list[str]:
    """Applies each block; returns the files."""
    for kind, text, file in blocks():
        path = folder / file
        if kind == "python":
            assert not path.exists(), f"{file} is new"
            path.write_text(text)
            continue
        lines = text.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        code = path.read_text()
        assert code.count(before) == 1, f"{file} has not once:\n{before}"
        path.write_text(code.replace(before, after))
    return [file for _, _, file in blocks()]


def test_a_loss_added_by_the_page_works(tmp_path: Path, models: Models) -> None:
    for name in ("dstc", "dstc_engine", "tests/unit/dstc_engine"):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "tests/__init__.py", "tests/unit/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    files = follow_the_page(tmp_path)
    assert len(files) == len(set(files)) + 1 == 7, "guide.py has two blocks, the others one each"
    in_use = Path(__file__).with_name("loss_in_use.py")
    shutil.copy(in_use, tmp_path / "tests/unit/dstc_engine/test_in_use.py")

    (changed,) = re.findall(r"dstc translate .* --set (\S+)", PAGE)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "DSTC_CHANGED": changed}
    chosen = ["-k", "variation or in_use or push_is_minus_the_gradient", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *chosen, *TESTS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "7 passed" in ended.stdout, ended.stdout  # 1, 3 and 3 of the files

    # Without a weight, the images of the changed code are those of this one, to the last bit.
    with np.load(tmp_path / "without.npz") as images:
        translated = run(models, [request(kind, 1) for kind in KINDS])
        assert images.files == [*translated]
        for name, ours in translated.items():
            assert ours.image is not None and np.array_equal(images[name], ours.image)
