from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# In place of Python: makes a venv that holds itself, installs nothing, and compiles in earnest.
STUB = f"""#!/bin/sh
case $2 in
venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
compileall) exec {sys.executable} "$@" ;;
esac
"""


@pytest.mark.parametrize("is_broken", [False, True])
def test_install_compiles_without_noise_and_names_what_does_not_compile(
    tmp_path: Path, is_broken: bool
) -> None:
    stub, library = tmp_path / "python", tmp_path / "venv" / "lib"
    stub.write_text(STUB)
    stub.chmod(0o755)
    library.mkdir(parents=True)
    # Of torch: written for one version of Python, which need not be this one.
    for path in (Path(torch.__file__).parent / "testing" / "_internal").glob("py3*.py"):
        shutil.copy(path, library)
    (library / "some.py").write_text("def (" if is_broken else "")

    command = ["make", "install", f"VENV={tmp_path / 'venv'}", f"PYTHON={stub}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    assert ("SyntaxError" in made.stdout and "some.py" in made.stdout) == is_broken
    assert ("Error" in made.stdout) == is_broken
    assert bool(list(library.rglob("some.*.pyc"))) != is_broken
