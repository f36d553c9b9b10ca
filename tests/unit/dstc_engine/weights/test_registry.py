"""Weights are found by name, and refused when they are not what the registry says."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from dstc_engine.errors import WeightsError
from dstc_engine.presets import get_preset
from dstc_engine.weights import registry
from dstc_engine.weights.registry import REGISTRY, Weights, file_sha256, find, verify, weights_of

CONTENT = b"some weights"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Weights that are registered and lie in the folder."""
    made = Weights(
        name="some",
        file="some.pt",
        source="https://example.org/some.pt",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="MIT",
    )
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(REGISTRY, "some", made)
    (tmp_path / "some.pt").write_bytes(CONTENT)
    return made


def test_the_right_file_is_found(entry: Weights, tmp_path: Path) -> None:
    assert verify("some") == tmp_path / "some.pt" == entry.path


def test_a_missing_file_names_source_and_folder(entry: Weights, tmp_path: Path) -> None:
    entry.path.unlink()
    with pytest.raises(WeightsError) as caught:
        verify("some")
    for told in ("'some'", str(tmp_path / "some.pt"), entry.source, "DSTC_WEIGHTS"):
        assert told in str(caught.value)


def test_another_file_is_refused(entry: Weights) -> None:
    assert verify("some")
    entry.path.write_bytes(b"other weights")
    other = hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(WeightsError, match=f"has sha256 {other}; expected {entry.sha256}"):
        verify("some")


def test_a_file_whose_publisher_gives_no_checksum_is_taken(
    entry: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "some", dataclasses.replace(entry, sha256=None))
    entry.path.write_bytes(b"anything")
    assert file_sha256(verify("some")) == hashlib.sha256(b"anything").hexdigest()


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSTC_WEIGHTS", raising=False)
    assert registry.weights_folder() == Path.home() / ".cache/dstc/weights"


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(WeightsError, match="unknown weights 'dino-vitb9'.*dino-vitb8.*clip-rn50"):
        find("dino-vitb9")


def test_entries_are_whole() -> None:
    for name, weights in REGISTRY.items():
        assert weights.name == name and weights.licence and weights.source and weights.file
        if weights.sha256 is not None:
            assert re.fullmatch("[0-9a-f]{64}", weights.sha256), name
        if weights.source.startswith("https://openaipublic.azureedge.net/clip"):
            assert str(weights.sha256) in weights.source


def test_weights_of_a_preset() -> None:
    names = [w.name for w in weights_of(get_preset("ffhq256-text"))]
    assert names[:2] == ["adm-ffhq256", "dino-vitb8"] and names[-1] == "arcface-ir-se50"
    assert "arcface-ir-se50" not in [w.name for w in weights_of(get_preset("imagenet256-text"))]
