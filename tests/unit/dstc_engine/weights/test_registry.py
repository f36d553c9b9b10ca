"""Weights are found by name, and refused when they are not what the registry says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dstc_engine.errors import WeightsError
from dstc_engine.presets import get_preset, with_fields
from dstc_engine.weights import places, registry
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
    for text in ("'some'", str(tmp_path / "some.pt"), entry.source, "DSTC_WEIGHTS"):
        assert text in str(caught.value)


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


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("prior", "dino-vitb8", "'dino-vitb8' are of kind vit; expected prior: emoji64-prior, adm"),
        (
            "dino",
            "clip-rn50",
            "'clip-rn50' are of kind clip; expected vit: emoji64-vit, dino-vits8",
        ),
        ("clips", "adm-ffhq256", "'adm-ffhq256' are of kind prior; expected clip: emoji64-clip"),
        ("arcface", "vgg19", "'vgg19' are of kind vgg; expected face: arcface-ir-se50, or"),
        ("vgg", "emoji64-vit", "'emoji64-vit' are of kind vit; expected vgg: vgg19, or"),
    ],
)
def test_weights_of_another_kind_are_refused(field: str, name: str, message: str) -> None:
    changes = {field: name, "weight_identity": "1", "weight_vgg_gram": "1"}
    with pytest.raises(WeightsError, match=message):
        weights_of(with_fields(get_preset("tiny64"), changes))


def test_entries_are_whole() -> None:
    for name, weights in REGISTRY.items():
        assert weights.name == name and weights.licence and weights.source and weights.file
        if weights.sha256 is not None:
            assert re.fullmatch("[0-9a-f]{64}", weights.sha256), name
        if weights.source.startswith("https://openaipublic.azureedge.net/clip"):
            assert str(weights.sha256) in weights.source
        assert weights.kind in ("prior", "vit", "clip", "face", "vgg") and weights.about
        if weights.is_published:
            assert weights.upstream and str(weights.url).startswith("https://")
    files = [weights.file for weights in REGISTRY.values()]
    assert len(set(files)) == len(files), "two entries would take one file for both"


def test_the_folder_of_a_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", "s3://bucket/weights")
    monkeypatch.delenv("DSTC_WEIGHTS_CACHE", raising=False)
    assert registry.weights_folder() == Path.home() / ".cache/dstc/weights"
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(tmp_path))
    assert registry.weights_folder() == tmp_path


def test_weights_of_a_preset() -> None:
    names = [w.name for w in weights_of(get_preset("ffhq256-text"))]
    assert names[:2] == ["adm-ffhq256", "dino-vitb8"] and names[-1] == "arcface-ir-se50"
    assert "arcface-ir-se50" not in [w.name for w in weights_of(get_preset("imagenet256-text"))]


# -- shipped weights, whose file may have stayed behind when a Ray job took the code along

PRIOR = "emoji64-prior"
IN_PACKAGE = "dstc_engine/weights/tiny"


@pytest.fixture
def code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module as it lies in a job's working directory: descriptions, and no weights."""
    folder = tmp_path / "working_dir" / IN_PACKAGE
    folder.mkdir(parents=True)
    description = {
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "architecture": {"image_size": 64},
    }
    (folder / "prior.json").write_text(json.dumps(description))
    monkeypatch.setattr(places, "SHIPPED", folder)
    monkeypatch.setattr(places, "DISTRIBUTION", "dstc-of-this-test")
    monkeypatch.setitem(
        REGISTRY, PRIOR, dataclasses.replace(REGISTRY[PRIOR], sha256=description["sha256"])
    )
    monkeypatch.delenv("DSTC_WEIGHTS", raising=False)
    return folder


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lays out an installed distribution, normal or editable, and returns its packages' folder."""

    def lay_out(editable: bool, content: bytes = CONTENT) -> Path:
        site = tmp_path / "site-packages"
        source = tmp_path / "a checkout" if editable else site
        metadata = site / "dstc_of_this_test-0.1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: dstc-of-this-test\nVersion: 0.1.0\n"
        )
        if editable:
            url = {"dir_info": {"editable": True}, "url": source.as_uri()}
            (metadata / "direct_url.json").write_text(json.dumps(url))
        (source / IN_PACKAGE).mkdir(parents=True)
        (source / IN_PACKAGE / "prior.safetensors").write_bytes(content)
        monkeypatch.syspath_prepend(str(site))
        return source / IN_PACKAGE

    return lay_out


@pytest.mark.parametrize("editable", [False, True])
def test_code_without_weights_finds_those_of_the_installed_package(
    code_alone: Path, install: Callable[..., Path], editable: bool
) -> None:
    folder = install(editable)
    assert verify(PRIOR) == folder / "prior.safetensors"
    assert find(PRIOR).description()["architecture"] == {"image_size": 64}


def test_weights_beside_the_code_come_before_installed_ones(
    code_alone: Path, install: Callable[..., Path]
) -> None:
    install(editable=False)
    (code_alone / "prior.safetensors").write_bytes(CONTENT)
    assert verify(PRIOR) == code_alone / "prior.safetensors"


def test_the_named_folder_comes_first_and_may_lack_the_file(
    code_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code_alone / "prior.safetensors").write_bytes(CONTENT)
    named = tmp_path / "named"
    named.mkdir()
    monkeypatch.setenv("DSTC_WEIGHTS", str(named))
    assert verify(PRIOR) == code_alone / "prior.safetensors"
    (named / "prior.safetensors").write_bytes(CONTENT)
    assert verify(PRIOR) == named / "prior.safetensors"


def test_installed_weights_of_another_version_are_refused(
    code_alone: Path, install: Callable[..., Path]
) -> None:
    folder = install(editable=False, content=b"an older training run")
    with pytest.raises(WeightsError, match="has sha256 .*; expected") as caught:
        verify(PRIOR)
    assert str(folder / "prior.safetensors") in str(caught.value)


def test_shipped_weights_that_are_nowhere_name_all_places(
    code_alone: Path, install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = install(editable=True)
    (installed / "prior.safetensors").unlink()
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "named"))
    with pytest.raises(WeightsError) as caught:
        verify(PRIOR)
    for text in (PRIOR, str(tmp_path / "named"), str(code_alone), str(installed), "install dstc"):
        assert text in str(caught.value)


def test_the_shipped_files_of_this_checkout_are_those_the_code_names() -> None:
    for name in (PRIOR, "emoji64-vit", "emoji64-clip"):
        assert verify(name).parent == Path(registry.__file__).parent / "tiny"
