"""`dstc weights`, as a person sees it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dstc import weights
from dstc.cli import main
from dstc_engine.presets import PRESETS
from dstc_engine.weights import download, registry
from dstc_engine.weights.registry import REGISTRY
from tests.file_host import FileHost, file_host
from tests.some_weights import published, register, sum_of

__all__ = ["file_host"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*download.OFFLINE_VARIABLES, "DSTC_MIRROR", "DSTC_WEIGHTS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("COLUMNS", "90")
    return tmp_path / "weights"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["weights", *arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


# -- list ------------------------------------------------------------------------------------------


def test_the_list_fits_a_terminal_and_has_everything(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    code, out, _ = call(capsys, "list")
    assert code == 0
    # Sources and the folder stay whole, to be copied: the terminal breaks them.
    whole = {f"    {w.url or w.source}" for w in REGISTRY.values()} | {f"folder: {folder}"}
    lines = [line for line in out.splitlines() if line not in whole]
    assert max(map(len, lines)) <= 90
    assert whole <= set(out.splitlines())
    joined = re.sub(r"\s+", "", out)
    for entry in REGISTRY.values():
        for text in (entry.name, entry.licence, entry.conditions, entry.about):
            assert re.sub(r"\s+", "", text) in joined, text


def test_the_list_of_a_preset_as_json(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = call(capsys, "list", "--preset", "tiny64", "--json")
    records = json.loads(out)
    assert code == 0 and {each["state"] for each in records} == {"shipped"}
    expected = [weights.name for weights in registry.weights_of(PRESETS["tiny64"])]
    assert [each["name"] for each in records] == expected
    assert all(each["size"] > 0 and each["sha256"] and each["licence"] for each in records)


def test_states_are_told(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone", "by-hand", "ready"):
        register(monkeypatch, name)
    folder.mkdir()
    for name in ("by-hand", "ready"):
        (folder / f"{name}-published.pt").write_bytes(published())
    call(capsys, "fetch", "ready")
    _, out, _ = call(capsys, "list", "--json")
    states = {each["name"]: each["state"] for each in json.loads(out)}
    assert (states["gone"], states["by-hand"], states["ready"]) == (
        "missing",
        "original present",
        "present",
    )


# -- fetch -----------------------------------------------------------------------------------------


def test_fetching_tells_licence_conditions_and_whether_the_sum_is_published(
    capsys: pytest.CaptureFixture[str],
    file_host: FileHost,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = file_host.serve("/published.pt", published())
    register(monkeypatch, "one", url=url, licence="CC BY-NC", conditions="no commercial use")
    register(monkeypatch, "two", url=url, sha256=None)
    code, out, err = call(capsys, "fetch", "one", "two")
    assert (code, err) == (0, "")
    sha256 = sum_of(published())
    for line in (
        "one: a small network, 0 MB",
        "one: licence CC BY-NC",
        "one: no commercial use",
        f"one: sha256 {sha256}, as published",
        f"one: ready, {folder / 'one.safetensors'}",
        f"two: sha256 {sha256}, which nobody publishes: taken on trust now",
    ):
        assert line in out
    code, out, _ = call(capsys, "fetch", "one")
    assert code == 0 and out == f"one: is here, {folder / 'one.safetensors'}\n"


def test_what_does_not_come_keeps_nothing_from_coming(
    capsys: pytest.CaptureFixture[str],
    file_host: FileHost,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, "by-hand", url=None)
    register(monkeypatch, "one", url=file_host.serve("/published.pt", published()))
    code, _, err = call(capsys, "fetch", "by-hand", "one")
    assert code == 2
    first, last = err.splitlines()
    assert "get by-hand-published.pt from the page of by-hand" in first
    assert last == "error: 1 of 2 did not come: by-hand"
    assert (folder / "one.safetensors").is_file()


def test_ctrl_c_keeps_what_has_come(
    capsys: pytest.CaptureFixture[str],
    file_host: FileHost,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, "one", url=file_host.serve("/published.pt", published()))

    def stop(lines: object, done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(weights._Lines, "__call__", stop)
    code, _, err = call(capsys, "fetch", "one")
    assert (code, err) == (130, "stopped; the same command continues\n")
    assert (folder / "one.download.pt.part").stat().st_size > 0


def test_fetching_needs_to_be_told_what(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "fetch")
    assert code == 2 and "--preset NAME, or --all" in err
    code, _, err = call(capsys, "fetch", "nosuch")
    assert code == 2 and err.startswith("error: unknown weights 'nosuch'")
    code, _, err = call(capsys, "fetch", "--preset", "nosuch")
    assert code == 2 and err.startswith("error: unknown preset 'nosuch'")


def test_the_networks_that_ship_need_no_fetching(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "fetch", "--preset", "tiny64")
    assert code == 0 and out.count(": is here, ") == 3


def test_fetching_into_a_bucket(
    capsys: pytest.CaptureFixture[str],
    file_host: FileHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = f"file://{tmp_path / 'bucket'}"
    monkeypatch.setenv("DSTC_WEIGHTS", bucket)
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(tmp_path / "cache"))
    register(monkeypatch, "one", url=file_host.serve("/published.pt", published()))
    code, out, _ = call(capsys, "fetch", "one")
    assert code == 0 and f"one: copying to {bucket}" in out
    names = sorted(file.name for file in (tmp_path / "bucket").iterdir())
    assert names == ["one.json", "one.safetensors"]
    assert call(capsys, "fetch", "one")[1] == f"one: is in {bucket}\n"
    assert len(file_host.asked) == 1
    _, out, _ = call(capsys, "list", "--json")
    states = {each["name"]: each["state"] for each in json.loads(out)}
    assert (states["one"], states["emoji64-vit"]) == ("in the bucket", "shipped")


# -- verify ----------------------------------------------------------------------------------------


def test_verifying_compares_what_is_there(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "one")
    register(monkeypatch, "gone")
    folder.mkdir()
    (folder / "one-published.pt").write_bytes(published())
    call(capsys, "fetch", "one")
    code, out, _ = call(capsys, "verify")
    assert code == 0
    assert f"one: {folder / 'one.safetensors'}" in out and "gone" in out.splitlines()[-1]

    (folder / "one.safetensors").write_bytes(b"altered")
    code, out, err = call(capsys, "verify")
    assert code == 2 and "error: not as they should be: one" in err
    assert "emoji64-vit: " in out, "the others are compared all the same"


def test_verifying_what_is_missing_names_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "gone")
    code, _, err = call(capsys, "verify", "gone")
    assert code == 2 and err == "error: missing: gone; bring them: dstc weights fetch gone\n"
    code, _, err = call(capsys, "verify", "--preset", "imagenet256-text")
    assert code == 2 and "dstc weights fetch --preset imagenet256-text" in err
