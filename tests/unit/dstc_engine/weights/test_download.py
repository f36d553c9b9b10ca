"""A file comes whole, or not at all, from a host that breaks off, changes its mind, or is full."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstc_engine.errors import WeightsError
from dstc_engine.weights import download as module
from dstc_engine.weights.download import NotServed, download
from tests.file_host import FileHost, file_host
from tests.small_disk import SmallDisk, small_disk

__all__ = ["file_host", "small_disk"]

DATA = bytes(range(256)) * 800  # 205 kB, no two neighbouring bytes alike
OTHER = DATA[::-1]
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _quick_and_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "_CHUNK", 10_000)
    for name in module.OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is to come to, in a folder that is not there yet."""
    return tmp_path / "weights" / "some.pt"


def files(path: Path) -> list[str]:
    """Names of what lies in the folder, locks left out."""
    return sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))


def ranges(host: FileHost) -> list[str | None]:
    return [asked.range for asked in host.asked]


# -- a calm host -----------------------------------------------------------------------------------


def test_a_file_comes_whole_and_progress_is_told(file_host: FileHost, path: Path) -> None:
    progress: list[tuple[int, int | None]] = []
    done = download(
        file_host.serve("/some.pt", DATA),
        path,
        SHA256,
        len(DATA),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert path.read_bytes() == DATA and files(path) == ["some.pt"]
    assert (done.path, done.sha256, done.is_published) == (path, SHA256, True)
    assert progress[0] == (0, len(DATA)) and progress[-1] == (len(DATA), len(DATA))


def test_a_file_that_is_there_is_not_asked_for(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA)
    download(url, path, SHA256)
    assert download(url, path, SHA256).sha256 == SHA256
    assert len(file_host.asked) == 1
    with pytest.raises(WeightsError, match=f"sha256 {SHA256}; expected 00"):
        download(url, path, "0" * 64)
    assert path.read_bytes() == DATA, "what a person may have put there is not removed"


def test_without_a_known_sum_the_sum_is_noted(file_host: FileHost, path: Path) -> None:
    done = download(file_host.serve("/some.pt", DATA), path)
    assert (done.sha256, done.is_published) == (SHA256, False)


def test_a_file_whose_size_the_host_does_not_tell(file_host: FileHost, path: Path) -> None:
    download(file_host.serve("/some.pt", DATA, tells_size=False), path, SHA256)
    assert path.read_bytes() == DATA


# -- broken connections ----------------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_where_it_broke(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA, etag='"one"', cuts=[50_000, 70_000])
    download(url, path, SHA256)
    assert path.read_bytes() == DATA
    assert ranges(file_host) == [None, "bytes=50000-", "bytes=120000-"]
    assert [asked.if_range for asked in file_host.asked] == [None, '"one"', '"one"']


def test_a_later_call_goes_on(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA, cuts=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(NotServed, match="5 attempts brought nothing new. The 50,000 bytes .* kept"):
        download(url, path, SHA256)
    assert files(path) == ["some.pt.part", "some.pt.part.json"]
    before = len(file_host.asked)
    download(url, path, SHA256)
    assert path.read_bytes() == DATA and files(path) == ["some.pt"]
    assert ranges(file_host)[before:] == ["bytes=50000-"]


def test_a_file_that_changed_meanwhile_comes_anew(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", OTHER, cuts=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(NotServed):
        download(url, path)
    file_host.serve("/some.pt", DATA)
    assert download(url, path).sha256 == SHA256
    assert ranges(file_host)[-1] == "bytes=50000-", "the host was asked to go on, and began anew"


def test_a_host_that_ignores_if_range_is_found_out_by_the_etag(
    file_host: FileHost, path: Path
) -> None:
    url = file_host.serve("/some.pt", OTHER, cuts=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(NotServed):
        download(url, path)
    file_host.serve("/some.pt", DATA, heeds_if_range=False)
    assert download(url, path).sha256 == SHA256
    assert ranges(file_host)[-2:] == ["bytes=50000-", None]


def test_a_host_without_ranges_sends_it_anew(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA, has_ranges=False, cuts=[50_000])
    download(url, path, SHA256)
    assert path.read_bytes() == DATA and len(file_host.asked) == 2


def test_without_etag_and_sum_nothing_is_taken_up(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA, etag=None, cuts=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(NotServed):
        download(url, path)
    before = len(file_host.asked)
    assert download(url, path).sha256 == SHA256
    assert ranges(file_host)[before:] == [None]


def test_a_file_shorter_than_what_is_here_comes_anew(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", OTHER, etag='"same"', cuts=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(NotServed):
        download(url, path)
    file_host.serve("/some.pt", DATA[:1000], etag='"same"')  # answers 416
    download(url, path)
    assert path.read_bytes() == DATA[:1000]


def test_a_part_that_was_whole_all_along_is_finished(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA, tells_size=False, etag='"one"')
    path.parent.mkdir()
    path.with_name("some.pt.part").write_bytes(DATA)
    path.with_name("some.pt.part.json").write_text(f'{{"url": "{url}", "validator": "\\"one\\""}}')
    assert download(url, path).sha256 == SHA256  # the host answers 416
    assert ranges(file_host) == [f"bytes={len(DATA)}-"]


def test_a_part_of_another_address_is_not_taken_up(file_host: FileHost, path: Path) -> None:
    other = file_host.serve("/other.pt", OTHER, etag='"same"', cuts=[50_000, 0, 0, 0, 0, 0])
    with pytest.raises(NotServed):
        download(other, path)
    assert download(file_host.serve("/some.pt", DATA, etag='"same"'), path).sha256 == SHA256
    assert ranges(file_host)[-1] is None


def test_a_busy_host_is_asked_again(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA, statuses=[503, 429, 500])
    assert download(url, path, SHA256).path == path
    assert len(file_host.asked) == 4


def test_nobody_at_the_address(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA)
    file_host.stop()
    with pytest.raises(NotServed, match=r"does not come \(ConnectionError.*0 bytes"):
        download(url, path)


# -- what is refused -------------------------------------------------------------------------------


def test_a_wrong_sum_is_refused_and_the_file_removed(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", OTHER)
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(WeightsError, match=f"has sha256 {found}; expected {SHA256}; .* not kept"):
        download(url, path, SHA256)
    assert files(path) == []
    file_host.serve("/some.pt", DATA)
    assert download(url, path, SHA256).sha256 == SHA256


def test_a_wrong_size_is_refused_before_it_comes(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA)
    progress: list[int] = []
    with pytest.raises(WeightsError, match="the host has 204,800 bytes; expected 7"):
        download(url, path, None, 7, on_progress=lambda done, total: progress.append(done))
    assert files(path) == [] and progress == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_told_at_once(file_host: FileHost, path: Path, status: int) -> None:
    url = file_host.serve("/some.pt", DATA, statuses=[status])
    with pytest.raises(NotServed, match=f"the host answers {status}"):
        download(url, path)
    assert len(file_host.asked) == 1 and files(path) == []


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_never_taken_for_weights(
    file_host: FileHost, path: Path, content_type: str
) -> None:
    page = b"\n<!DOCTYPE html><html>Sorry, too many users have viewed this file</html>"
    url = file_host.serve("/some.pt", page, content_type=content_type)
    with pytest.raises(NotServed, match="a web page instead of the file"):
        download(url, path)
    assert "some.pt" not in files(path)
    file_host.serve("/some.pt", DATA)
    assert download(url, path).sha256 == SHA256, "and nothing of it is left in the way"


@pytest.mark.parametrize("url", ["ftp://example.org/some.pt", "some.pt", "http://"])
def test_an_address_that_is_none(path: Path, url: str) -> None:
    with pytest.raises(NotServed, match="cannot be asked for"):
        download(url, path)


@pytest.mark.parametrize("name", ["DSTC_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked(
    file_host: FileHost, path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(NotServed, match=f"{name} is set"):
        download(file_host.serve("/some.pt", DATA), path)
    assert file_host.asked == []
    monkeypatch.setenv(name, "0")
    assert download(file_host.serve("/some.pt", DATA), path)


# -- hosts with habits -----------------------------------------------------------------------------


def test_a_sum_that_the_host_names_is_taken_for_published(file_host: FileHost, path: Path) -> None:
    """Hugging Face redirects to its storage, and names the sum in the redirect."""
    file_host.serve("/storage/blob", DATA, cuts=[50_000])
    url = file_host.serve("/resolve/main/some.pt", redirect="/storage/blob")
    file_host.files["/resolve/main/some.pt"].headers = {"X-Linked-ETag": f'"{SHA256}"'}
    assert download(url, path).is_published
    file_host.files["/resolve/main/some.pt"].headers = {"X-Linked-ETag": f'"{"0" * 64}"'}
    with pytest.raises(WeightsError, match=f"has sha256 {SHA256}; expected 000"):
        download(url, path.with_name("again.pt"))


@pytest.mark.parametrize("variant", ["hidden fields", "query"])
def test_a_confirmation_page_is_confirmed(file_host: FileHost, path: Path, variant: str) -> None:
    """Google Drive's two forms of "cannot scan this file for viruses"."""
    form = {
        "hidden fields": '<form id="download-form" action="{0}/download" method="get">'
        '<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="x1">'
        '<input type="hidden" name="confirm" value="t"></form>',
        "query": '<form action="{0}/download?id=x1&amp;confirm=t" id="download-form" method="post">'
        "</form>",
    }[variant].format(file_host.url)
    page = f"<html><body>can't scan {form}</body></html>".encode()
    file_host.serve("/uc", page, content_type="text/html")
    file_host.serve("/download", DATA, cuts=[50_000])
    download(f"{file_host.url}/uc?export=download&id=x1", path, SHA256)
    assert path.read_bytes() == DATA
    assert {asked.path for asked in file_host.asked} == {
        "/uc?export=download&id=x1",
        "/download?id=x1&confirm=t",
    }
    assert file_host.asked[-1].range == "bytes=50000-"


# -- several at once -------------------------------------------------------------------------------


def test_threads_that_want_one_file_bring_it_once(file_host: FileHost, path: Path) -> None:
    url = file_host.serve("/some.pt", DATA)
    file_host.gate.clear()
    waiting = threading.Semaphore(0)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(download, url, path, on_wait=waiting.release) for _ in range(4)]
        for _ in range(3):
            assert waiting.acquire(timeout=10)
        file_host.gate.set()
        assert {call.result().sha256 for call in calls} == {SHA256}
    assert len(file_host.asked) == 1


_CHILD = """
import sys
from pathlib import Path
from dstc_engine.weights.download import download
download(sys.argv[1], Path(sys.argv[2]))
"""

Start = Callable[[str, Path], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that downloads."""
    started = []

    def run(url: str, path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _CHILD, url, str(path)]
        started.append(subprocess.Popen(command, env={**os.environ, "no_proxy": "*"}))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_processes_that_want_one_file_bring_it_once(
    file_host: FileHost, path: Path, start: Start
) -> None:
    url = file_host.serve("/some.pt", DATA)
    processes = [start(url, path) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert path.read_bytes() == DATA and len(file_host.asked) == 1


def test_a_killed_process_leaves_its_part_and_lets_go_of_the_lock(
    file_host: FileHost, path: Path, start: Start
) -> None:
    url = file_host.serve("/some.pt", DATA)
    file_host.gate.clear()
    process = start(url, path)
    half = len(DATA) // 2
    part = path.with_name("some.pt.part")
    until(lambda: bool(file_host.asked) and part.exists() and part.stat().st_size > 0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    came = part.stat().st_size
    assert 0 < came <= half
    file_host.gate.set()
    assert download(url, path).sha256 == SHA256
    assert ranges(file_host) == [None, f"bytes={came}-"]


# -- the disk --------------------------------------------------------------------------------------


def test_no_space_is_told_before_the_file_comes(file_host: FileHost, small_disk: SmallDisk) -> None:
    url = file_host.serve("/some.pt", DATA * 2)
    path = small_disk.folder / "some.pt"
    with pytest.raises(WeightsError, match="bytes are free, and the rest.*409,600; free"):
        download(url, path)
    small_disk.resize(1000)
    download(url, path)
    assert path.read_bytes() == DATA * 2


def test_a_disk_that_fills_up_keeps_what_has_come(
    file_host: FileHost, small_disk: SmallDisk
) -> None:
    url = file_host.serve("/some.pt", DATA * 2, tells_size=False)
    path = small_disk.folder / "some.pt"
    with pytest.raises(WeightsError, match="no space is left; free some.*DSTC_WEIGHTS.*is kept"):
        download(url, path)
    came = path.with_name("some.pt.part").stat().st_size
    assert came > 100_000
    small_disk.resize(1000)
    download(url, path)
    assert path.read_bytes() == DATA * 2
    assert ranges(file_host) == [None, f"bytes={came}-"]


def test_a_read_only_folder_is_named(file_host: FileHost, small_disk: SmallDisk) -> None:
    url = file_host.serve("/some.pt", DATA)
    small_disk.make_read_only()
    with pytest.raises(WeightsError, match=f"{small_disk.folder}: it is read-only; mount it"):
        download(url, small_disk.folder / "some.pt")
    assert file_host.asked == []


@pytest.fixture
def others_folder() -> Iterator[Path]:
    """A folder in which this process may read and not write, be it root's or not."""
    folder = Path(tempfile.mkdtemp())  # others may not even enter pytest's own folders
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.rmdir()


def test_a_folder_without_permission_is_named(file_host: FileHost, others_folder: Path) -> None:
    url = file_host.serve("/some.pt", DATA)
    with pytest.raises(WeightsError, match=f"{others_folder}: permission is denied; let this user"):
        download(url, others_folder / "some.pt")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "it is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.ENOSYS, "its file system has no locks"),
        (errno.EIO, "OSError: .*Input/output error"),
    ],
)
def test_faults_of_the_disk_name_the_folder_and_the_way_out(
    file_host: FileHost, path: Path, number: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        WeightsError, match=f"weights folder {path.parent}: {message}.*DSTC_WEIGHTS"
    ):
        download(file_host.serve("/some.pt", DATA), path)
