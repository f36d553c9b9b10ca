"""Weights become ready to load: fetched, or put there by hand; or it is said what to do."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dstc_engine.errors import WeightsError
from dstc_engine.weights import download, registry
from dstc_engine.weights.fetch import State, fetch, missing_from, require, state_of, upstream_sum
from tests.file_host import FileHost, file_host
from tests.small_disk import SmallDisk, small_disk
from tests.some_weights import preset_of, published, register, state, sum_of

__all__ = ["file_host", "small_disk"]

DATA = published()
SHA256 = sum_of(DATA)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights folder, not there yet."""
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    for name in (*download.OFFLINE_VARIABLES, "DSTC_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def url(file_host: FileHost) -> str:
    return file_host.serve("/published.pt", DATA)


def files(folder: Path) -> list[str]:
    """Names of what lies in the folder, locks left out."""
    return sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))


def sidecar(folder: Path, name: str = "some") -> dict[str, object]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


READY = ["some.json", "some.safetensors"]


def test_weights_are_fetched_checked_and_converted(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = register(monkeypatch, url=url)
    assert state_of(weights) is State.MISSING
    assert fetch("some") == folder / "some.safetensors"
    assert state_of(weights) is State.PRESENT and files(folder) == READY
    assert torch.equal(
        load_file(folder / "some.safetensors")["layer.weight"], state()["layer.weight"]
    )
    record = sidecar(folder)
    assert record["upstream_sha256"] == SHA256 and record["upstream_published"] is True
    assert record["sha256"] == sum_of((folder / "some.safetensors").read_bytes())
    assert upstream_sum(weights) == SHA256


def test_weights_that_are_there_are_left_alone(
    url: str, file_host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=url)
    fetch("some")
    monkeypatch.setenv("DSTC_OFFLINE", "1")
    assert fetch("some")
    assert len(file_host.asked) == 1
    assert fetch("emoji64-vit") == registry.find("emoji64-vit").path


def test_the_file_as_published_may_be_kept(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=url)
    fetch("some", keep_original=True)
    assert files(folder) == ["some-published.pt", *READY]
    assert (folder / "some-published.pt").read_bytes() == DATA


def test_a_sum_that_nobody_publishes_is_noted(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = register(monkeypatch, url=url, sha256=None)
    fetch("some")
    assert sidecar(folder)["upstream_published"] is False
    assert upstream_sum(weights) == SHA256


def test_a_sum_that_the_host_names_counts_as_published(
    url: str, file_host: FileHost, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=url, sha256=None)
    file_host.files["/published.pt"].headers = {"X-Linked-ETag": f'"{SHA256}"'}
    fetch("some")
    assert sidecar(folder)["upstream_published"] is True


def test_a_file_put_there_by_hand_is_converted_and_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = register(monkeypatch, url=None)
    folder.mkdir()
    (folder / "some-published.pt").write_bytes(DATA)
    assert state_of(weights) is State.ORIGINAL and upstream_sum(weights) == SHA256
    monkeypatch.setenv("DSTC_OFFLINE", "1")
    fetch("some")
    assert files(folder) == ["some-published.pt", *READY]
    assert state_of(weights) is State.PRESENT and upstream_sum(weights) == SHA256


def test_a_wrong_file_put_there_by_hand_is_refused_and_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=None)
    folder.mkdir()
    (folder / "some-published.pt").write_bytes(published(seed=1))
    with pytest.raises(WeightsError, match=f"expected {SHA256}; remove it"):
        fetch("some")
    assert files(folder) == ["some-published.pt"]


def test_weights_that_no_program_can_fetch_tell_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=None)
    with pytest.raises(WeightsError) as caught:
        fetch("some")
    for part in (
        "get some-published.pt from the page of some",
        f"put it into {folder} under this name",
        "`dstc weights fetch some`",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("fault", ["offline", "page", "404"])
def test_whatever_does_not_come_may_be_brought_by_hand(
    url: str, file_host: FileHost, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    register(monkeypatch, url=url)
    if fault == "offline":
        monkeypatch.setenv("DSTC_OFFLINE", "1")
    elif fault == "page":
        file_host.serve("/published.pt", b"<html>quota</html>", content_type="text/html")
    else:
        file_host.files.clear()
    with pytest.raises(WeightsError, match=re.escape(f"and put it into {folder}")):
        fetch("some")
    assert not (folder / "some.safetensors").exists()


def test_a_wrong_sum_leaves_nothing(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=url, sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"has sha256 {SHA256}; expected 000"):
        fetch("some")
    assert files(folder) == []


def test_what_is_no_state_dict_is_not_converted(
    file_host: FileHost, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = file_host.serve("/published.pt", b"not a checkpoint at all")
    register(monkeypatch, url=url, sha256=None, size=0)
    with pytest.raises(WeightsError, match="not readable as weights"):
        fetch("some")
    assert "some.safetensors" not in files(folder) and "some.json" not in files(folder)


def test_a_mirror_takes_the_place_of_all_hosts(
    file_host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url="https://example.invalid/published.pt")
    file_host.serve("/mirror/some-published.pt", DATA)
    monkeypatch.setenv("DSTC_MIRROR", f"{file_host.url}/mirror/")
    assert fetch("some")


def test_threads_that_want_the_same_weights_fetch_and_convert_once(
    url: str, file_host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, url=url)
    file_host.gate.clear()
    waiting = threading.Semaphore(0)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(fetch, "some", on_wait=waiting.release) for _ in range(4)]
        for _ in range(3):
            assert waiting.acquire(timeout=10)
        file_host.gate.set()
        assert len({call.result() for call in calls}) == 1
    assert len(file_host.asked) == 1


def test_without_room_to_convert_the_download_is_kept(
    url: str, file_host: FileHost, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", str(small_disk.folder))
    small_disk.resize(100)  # kB; the file has 67
    register(monkeypatch, url=url)
    with pytest.raises(WeightsError, match="bytes are free, and some converted.*free some"):
        fetch("some")
    assert files(small_disk.folder) == ["some.download.pt"]
    small_disk.resize(1000)
    fetch("some")
    assert files(small_disk.folder) == READY and len(file_host.asked) == 1


def test_a_read_only_folder_serves_what_it_has(
    url: str, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", str(small_disk.folder))
    register(monkeypatch, url=url)
    fetch("some")
    small_disk.make_read_only()
    assert fetch("some") == small_disk.folder / "some.safetensors"
    register(monkeypatch, "other", url=url)
    with pytest.raises(WeightsError, match=f"{small_disk.folder}: it is read-only"):
        fetch("other")


def test_missing_weights_of_a_preset_name_the_command(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "one", url=url)
    register(monkeypatch, "two", url=url)
    preset = preset_of("one", "two")
    with pytest.raises(WeightsError) as caught:
        require(preset)
    assert str(caught.value) == missing_from(str(folder), preset, ["one", "two"])
    assert "`dstc weights fetch --preset tiny64`" in str(caught.value)
    fetch("one")
    with pytest.raises(WeightsError, match="no weights two in"):
        require(preset)
    fetch("two")
    require(preset)
