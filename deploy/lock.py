"""Writes requirements.lock anew: exact versions, with the sha256 sums of all their files.

    pip install uv
    python deploy/lock.py               keeps versions; follows what pyproject.toml adds or drops
    python deploy/lock.py --upgrade     takes the newest of all

What only development needs comes last, below a line that deploy/Dockerfile cuts the file at.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = REPOSITORY / "requirements.lock"
# As the container image has them: its Ray brings this Python.
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
HEAD = """\
# Exact versions that the tests passed with (Python 3.11, Linux x86-64), and the sums of their
# files, so that pip takes no other. Written by deploy/lock.py, installed by `make install`.
"""
DEVELOPMENT = "# Only for development:\n"


def entries(extras: Sequence[str], constraints: str) -> dict[str, str]:
    """Lines of each package that pyproject.toml asks for, by name; ends in their sums.

    Args:
        extras: groups of optional dependencies. constraints: `name==version` lines to keep to.
    """
    command = ["uv", "pip", "compile", "pyproject.toml", "--quiet", *PLATFORM]
    command += [f"--extra={extra}" for extra in extras]
    command += ["--constraint=-", "--generate-hashes", "--no-annotate", "--no-header"]
    # An index that the environment names stays out of the file.
    command += ["--no-emit-index-url", "--no-emit-find-links"]
    made = subprocess.run(
        command, input=constraints, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    found = re.findall(r"(?m)^(\S+)==.*\n(?:    --hash=.*\n)+", made.stdout)
    blocks = re.findall(r"(?m)^\S+==.*\n(?:    --hash=.*\n)+", made.stdout)
    return dict(zip(found, blocks, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes requirements.lock anew.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args(arguments).upgrade
    kept = "" if upgrade else "\n".join(re.findall(r"(?m)^\S+==[^\s\\]+", LOCK.read_text()))
    run = entries(["aws"], kept)
    everything = entries(["aws", "dev"], kept)
    development = {name: text for name, text in everything.items() if name not in run}
    LOCK.write_text(HEAD + "".join(run.values()) + DEVELOPMENT + "".join(development.values()))


if __name__ == "__main__":
    main()
