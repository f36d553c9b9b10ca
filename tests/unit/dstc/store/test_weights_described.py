"""A described prior comes to the node with its file, once, and anew when either has changed."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dstc.errors import JobError, StorageError
from dstc.planning.settings import make_settings
from dstc.store import storage, weights_copy
from dstc.store.weights_described import bring_described, folder_of, sum_of_described
from dstc_engine.errors import WeightsError
from tests.some_weights import sum_of

DATA = b"tensors" * 1000


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training run somewhere in storage."""
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("DSTC_STORAGE_PATIENCE_S", "0")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "prior.yaml").write_text("file: tensors.safetensors\nimage_size: 64\n")
    (folder / "tensors.safetensors").write_bytes(DATA)
    return folder


@pytest.fixture
def url(run: Path) -> str:
    return f"file://{run}/prior.yaml"


def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files copied from now on, descriptions left out."""
    copied: list[str] = []
    real = weights_copy.storage.open_input

    def open_input(uri: str, *arguments: Any) -> Any:
        copied.append(uri)
        return real(uri, *arguments)

    monkeypatch.setattr(storage, "open_input", open_input)
    return copied


def test_description_and_file_lie_side_by_side_in_a_folder_of_the_url(
    url: str, tmp_path: Path
) -> None:
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    folder = tmp_path / "weights" / "described" / digest
    assert folder_of(url) == folder
    assert bring_described(url) == folder / "tensors.safetensors"
    assert (folder / "tensors.safetensors").read_bytes() == DATA
    assert "image_size: 64" in (folder / "prior.yaml").read_text()


def test_json_is_taken_too_and_a_file_that_is_not_named_is_called_alike(run: Path) -> None:
    (run / "prior.json").write_text('{"image_size": 64}')
    (run / "prior.safetensors").write_bytes(DATA)
    assert bring_described(f"file://{run}/prior.json").name == "prior.safetensors"


def test_processes_of_a_node_copy_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = copies(monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(bring_described, url) for _ in range(8)]:
            call.result()
    bring_described(url)
    assert len(copied) == 1


def test_a_file_that_changed_comes_anew(url: str, run: Path) -> None:
    bring_described(url)
    (run / "tensors.safetensors").write_bytes(DATA[::-1])
    os.utime(run / "tensors.safetensors", (1, 1))
    assert bring_described(url).read_bytes() == DATA[::-1]


def test_a_description_that_changed_comes_anew(url: str, run: Path) -> None:
    bring_described(url)
    (run / "prior.yaml").write_text("file: tensors.safetensors\nimage_size: 128\n")
    bring_described(url)
    assert "128" in (folder_of(url) / "prior.yaml").read_text()


def test_a_sum_in_the_description_holds(
    url: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = copies(monkeypatch)
    assert sum_of_described(url) == sum_of(DATA), "computed, where it is not said"
    assert len(copied) == 1
    (run / "prior.yaml").write_text(f"file: tensors.safetensors\nsha256: {'f' * 64}\n")
    assert sum_of_described(url) == "f" * 64 and len(copied) == 1
    with pytest.raises(WeightsError, match=f"sha256 {sum_of(DATA)}; expected fff"):
        bring_described(url)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "found list; expected fields"),
        ("a: [", "not readable as YAML or JSON"),
        ("file: ../secret.pt", "file is '../secret.pt'; expected a name without folders"),
        ("file: 3", "file is 3; expected a name without folders"),
        ("sha256: 0000", "sha256 is 0; expected 64 hex digits, quoted"),
        ("file: gone.pt", "names gone.pt, which is not beside it"),
    ],
)
def test_a_description_that_cannot_be_used_is_named(
    url: str, run: Path, text: str, message: str
) -> None:
    (run / "prior.yaml").write_text(text)
    with pytest.raises(WeightsError, match=message):
        bring_described(url)


def test_a_description_that_is_not_there(run: Path) -> None:
    with pytest.raises(WeightsError, match="gone.yaml: there is no such description"):
        bring_described(f"file://{run}/gone.yaml")


def test_storage_that_does_not_answer_ends_the_job(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> bytes:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(storage, "read_bytes", fail)
    with pytest.raises(JobError, match="cannot be read from file://.*reset by peer"):
        bring_described(url)


def test_settings_keep_descriptions_findable_and_free_of_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def prior(named: str) -> str:
        made = make_settings(manifest="m", output="o", set={"prior": named})
        return made.resolved_preset.prior

    assert prior("runs/prior.yaml") == str(tmp_path / "runs/prior.yaml")
    assert prior("s3://bucket/prior.yaml") == "s3://bucket/prior.yaml"
    assert prior("adm-imagenet256") == "adm-imagenet256"
    with pytest.raises(StorageError, match="prior s3://bucket/prior.yaml: the URL carries"):
        prior("s3://key:word@bucket/prior.yaml")
