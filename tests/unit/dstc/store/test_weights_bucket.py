"""Weights come from the bucket once a node, checked against what lies beside them.

A `file://` URL is a bucket as any other here; `tests/integration/test_weights_s3.py` takes S3.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dstc.errors import JobError, StorageError
from dstc.store import storage
from dstc.store.weights_bucket import bring, bucket, description_of, put, sums
from dstc_engine.errors import WeightsError
from dstc_engine.weights import fetch, registry
from dstc_engine.weights.fetch import State, state_of
from tests.small_disk import SmallDisk, small_disk
from tests.some_weights import preset_of, published, register, sum_of

__all__ = ["small_disk"]

PRESET = preset_of("some")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's copies."""
    monkeypatch.setenv("DSTC_WEIGHTS", f"file://{tmp_path / 'bucket'}")
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DSTC_STORAGE_PATIENCE_S", "0")
    return tmp_path / "cache"


@pytest.fixture
def there(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bucket, with weights `some` in it, and none on this node."""
    register(monkeypatch)
    cache.mkdir()
    (cache / "some-published.pt").write_bytes(published())
    fetch.fetch("some")
    put("some")
    for file in cache.iterdir():
        file.unlink()
    return tmp_path / "bucket"


def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened in the bucket from now on, descriptions left out."""
    opened: list[str] = []
    real = storage.open_input

    def open_input(uri: str, *arguments: Any) -> Any:
        opened.append(uri)
        return real(uri, *arguments)

    monkeypatch.setattr(storage, "open_input", open_input)
    return opened


def test_a_path_is_no_bucket_and_nothing_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path))
    assert bucket() is None
    bring(PRESET)
    assert list(tmp_path.iterdir()) == []


def test_credentials_do_not_belong_into_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", "s3://user:word@bucket/weights")
    with pytest.raises(StorageError, match="DSTC_WEIGHTS s3://bucket/weights: the URL carries"):
        bucket()


def test_weights_come_to_the_node_and_are_ready(there: Path, cache: Path) -> None:
    assert sorted(file.name for file in there.iterdir()) == ["some.json", "some.safetensors"]
    bring(PRESET)
    assert state_of(registry.find("some")) is State.PRESENT
    assert registry.verify("some") == cache / "some.safetensors"
    descriptions = [json.loads((place / "some.json").read_text()) for place in (cache, there)]
    assert descriptions[0] == descriptions[1]


def test_copies_that_are_there_stay(
    there: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = copies(monkeypatch)
    bring(PRESET)
    bring(PRESET)
    assert opened == [f"file://{there}/some.safetensors"]


def test_many_actors_of_a_node_copy_once(
    there: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = copies(monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(bring, PRESET) for _ in range(8)]:
            call.result()
    assert len(opened) == 1


def test_other_weights_in_the_bucket_take_the_place_of_the_copy(there: Path, cache: Path) -> None:
    bring(PRESET)
    data = b"another conversion"
    (there / "some.safetensors").write_bytes(data)
    description = json.loads((there / "some.json").read_text())
    description |= {"sha256": sum_of(data), "size": len(data)}
    (there / "some.json").write_text(json.dumps(description))
    bring(PRESET)
    assert (cache / "some.safetensors").read_bytes() == data


def test_a_file_that_is_not_what_is_told_beside_it_is_refused(there: Path, cache: Path) -> None:
    (there / "some.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=f"some.safetensors: sha256 {sum_of(b'x')}; expected"):
        bring(PRESET)
    assert state_of(registry.find("some")) is State.MISSING
    assert not list(cache.glob("*.part"))


def test_a_file_made_from_another_than_the_registry_names_is_refused(
    there: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, sha256="0" * 64)
    expected = f"made from a file of sha256 {sum_of(published())}; expected 000"
    for ask in (bring, sums):
        with pytest.raises(WeightsError, match=expected):
            ask(PRESET)


def test_half_an_upload_is_no_weights(there: Path, cache: Path) -> None:
    (there / "some.json").unlink()
    assert description_of("some") is None
    for ask in (bring, sums):
        with pytest.raises(WeightsError, match="no weights some in file://.*/bucket; bring them"):
            ask(PRESET)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "some", "size": "large"}'])
def test_a_description_that_is_none_is_named(there: Path, text: str) -> None:
    (there / "some.json").write_text(text)
    with pytest.raises(WeightsError, match="bucket/some.json: "):
        bring(PRESET)


def test_the_driver_reads_descriptions_alone(
    there: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = copies(monkeypatch)
    assert sums(PRESET) == {"some": sum_of(published())}
    assert opened == [] and list(cache.iterdir()) == []


def test_a_bucket_that_does_not_answer_ends_the_job(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> bytes:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(storage, "read_bytes", fail)
    with pytest.raises(JobError, match="weights cannot be read from file://.*reset by peer"):
        bring(PRESET)


def test_a_node_without_space_says_so(
    there: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(small_disk.folder))
    small_disk.resize(40)
    with pytest.raises(WeightsError, match=f"{small_disk.folder}: no space.*DSTC_WEIGHTS_CACHE"):
        bring(PRESET)
    assert not list(small_disk.folder.glob("*.part")), "no broken copy takes up the room there is"
    small_disk.resize(1000)
    bring(PRESET)


def test_a_read_only_cache_serves_what_it_has(
    there: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS_CACHE", str(small_disk.folder))
    bring(PRESET)
    small_disk.make_read_only()
    bring(PRESET)
