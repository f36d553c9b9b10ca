"""The wheel as a user gets it: in another environment, outside the checkout, beside a `jobs`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.ray_session import result_rows

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "dstc", "dstc_engine", "tiny64")
NO_PART_OF_IT = ("jobs", "benchmarks", "deploy")
PACKAGES = ("dstc", "dstc_engine", "tiny64")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder to work in.

    Attributes:
        python: of the environment. folder: current directory of `run`, with nothing of ours in it.
    """

    python: Path
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment, found before any package called `jobs` but its own."""
        # Else the checkout, which pytest runs in, would come before what is installed.
        clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [str(self.python.with_name(command[0])), *command[1:]],
            cwd=self.folder,
            env={**clean, "PYTHONPATH": str(self.folder.parent / "foreign")},
            capture_output=True,
            text=True,
            timeout=240,
        )


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders in its source."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in (*SOURCES, *NO_PART_OF_IT):
        path = REPOSITORY / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Dependencies are those of this environment, but not what it has installed as `dstc`."""
    folder = tmp_path_factory.mktemp("user")
    venv, foreign, work = folder / "venv", folder / "foreign" / "jobs", folder / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    # Comes last on the path, and its own .pth files, such as an editable install's, are not read.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    foreign.mkdir(parents=True)
    for name in ("__init__", "translate"):
        (foreign / f"{name}.py").write_text("raise RuntimeError('the jobs of somebody else')\n")
    work.mkdir()
    return Installed(python, work)


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert not [name for name in names if name.startswith(("tiny64/quality", "tiny64/release"))]
    for package in PACKAGES[:2]:
        of_checkout = {
            path.relative_to(REPOSITORY).as_posix()
            for path in (REPOSITORY / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert {name for name in names if name.startswith(f"{package}/")} == of_checkout


def test_of_tiny64_it_holds_what_the_commands_import(wheel: Path, installed: Installed) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sources = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")}
    used = {
        name
        for path, text in sources.items()
        if path.startswith("dstc/")
        for name in re.findall(r"^ *from (tiny64[\w.]*) import", text, re.MULTILINE)
    }
    code = f"import sys, {', '.join(sorted(used))}; print(*sorted(sys.modules))"
    done = installed.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    held = {path.removesuffix(".py").replace("/", ".") for path in sources}
    held = {n.removesuffix(".__init__") for n in held if n.partition(".")[0] == "tiny64"}
    assert used and held == {n for n in done.stdout.split() if n.partition(".")[0] == "tiny64"}


def test_its_commands_answer_outside_the_checkout(installed: Installed) -> None:
    venv = installed.python.parents[1]
    for package in PACKAGES:
        done = installed.run("python", "-c", f"import {package}; print({package}.__file__)")
        assert Path(done.stdout.strip()).is_relative_to(venv), done.stderr
    for arguments, shown in ((["--help"], "translate"), (["train", "--help"], "prior")):
        done = installed.run("dstc", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert shown in done.stdout


def test_it_translates_two_rows_of_the_demo_and_says_nothing_of_ray(installed: Installed) -> None:
    manifests = REPOSITORY / "manifests"
    rows = pq.read_table(manifests / "demo.parquet").slice(0, 2)
    for column in ("content", "style"):
        place = rows.schema.get_field_index(column)
        paths = [uri and str(manifests / uri) for uri in rows.column(column).to_pylist()]
        rows = rows.set_column(place, column, pa.array(paths, pa.string()))
    pq.write_table(rows, installed.folder / "two.parquet")

    short = ("--set", "respacing=20", "--set", "skip=8", "--slots", "2", "--actors", "1")
    done = installed.run("dstc", "translate", "two.parquet", "run", *short)
    assert done.returncode == 0, done.stdout + done.stderr
    results = result_rows(installed.folder / "run")
    assert [(row["id"], row["status"]) for row in results] == [
        (name, "done") for name in rows.column("id").to_pylist()
    ]
    # A first screen shows how far the run is, and no line of Ray's core, such as
    # "[2026-11-28 16:04:42,439 I 2516 2516] logging.cc:303: Set ray log level ...".
    assert "/2 rows" in done.stderr
    assert not re.findall(r"^.*\.(?:cc|h|py):\d+.*$", done.stderr, re.MULTILINE)
