from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dstc.store import conditional, process, storage
from dstc.store.temporary_files import sweep, swept, temporary_beside

HOUR = 3600


def left_by_a_dead_process(folder: Path) -> Path:
    code = (
        "import sys; from pathlib import Path; from dstc.store.temporary_files import *; "
        "path = temporary_beside(Path(sys.argv[1], 'part.parquet')); path.write_text('half'); "
        "print(path)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def test_what_a_dead_process_left_is_swept_at_once_and_nothing_else(tmp_path: Path) -> None:
    deep = tmp_path / "images" / "3f"
    deep.mkdir(parents=True)
    dead, mine = left_by_a_dead_process(deep), temporary_beside(deep / "a.png")
    elsewhere = deep / f".01234567-1-{'0' * 32}.tmp"
    before = deep / f".99-{'0' * 32}.tmp"  # named as before there were neighborhoods
    others = [deep / ".hidden.tmp", deep / "row.tmp", deep / "a.png"]
    for path in (mine, elsewhere, before, *others):
        path.write_text("x")
    assert sweep(tmp_path) == 1 and not dead.exists()
    for path in (mine, elsewhere, before, *others):
        os.utime(path, (time.time() - 2 * HOUR,) * 2)
    assert sweep(tmp_path) == 3, "an hour is longer than any write"
    assert sorted(deep.iterdir()) == sorted(others)


def test_a_swap_that_the_disk_cuts_short_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    old = conditional.swap(str(path), b"old", None)
    for target, before in ((tmp_path / "new.json", None), (path, old)):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # comes half-way, as ENOSPC does
        try:
            with pytest.raises(OSError, match="File too large"):
                conditional.swap(str(target), b"x" * 3000, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_folder_is_swept_while_the_block_runs_and_at_its_end(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path)
    with swept(tmp_path):
        end = time.monotonic() + 10
        while list(tmp_path.iterdir()):
            assert time.monotonic() < end
        left_by_a_dead_process(tmp_path)
    assert not list(tmp_path.iterdir())
    with swept(None):
        pass


def test_the_end_waits_for_a_writer_that_is_being_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dstc.store.temporary_files import *; "
        "temporary_beside(Path(sys.argv[1], 'part.parquet')).write_text('half'); "
        "print('written', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    killed = threading.Timer(1.0, writer.kill)
    with swept(tmp_path):
        killed.start()
    assert not list(tmp_path.iterdir())
    writer.communicate()


def test_folders_are_flushed_after_names_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    storage.write_bytes(f"{tmp_path}/images/3f/a.png", b"whole")
    here = str(tmp_path)
    *made, file, last = flushed
    assert made == [here, f"{here}/images"], "the new folders' own names"
    assert file.endswith(".tmp") and last == f"{here}/images/3f"


def test_a_process_that_nobody_waits_for_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    end = time.monotonic() + 10
    while process.started(child.pid) is not None:
        assert time.monotonic() < end
    child.wait()
    assert process.started(os.getpid()) is not None
