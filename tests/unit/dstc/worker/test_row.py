from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dstc.worker.image_cache import ImageCache
from dstc.worker.row import (
    Failed,
    Rejected,
    Row,
    check_id,
    check_row,
    derive_retry_seed,
    derive_sample_seed,
    derive_seed,
    load_request,
)

GOOD = {"id": "a/b-1.x", "content": "c.png", "style": None, "prompt": "a dog"}


@pytest.mark.parametrize("row_id", ["a", "a.b", "A-Z_9/x", "...", "a/b/c", "x" * 240])
def test_safe_ids(row_id: str) -> None:
    assert check_id(row_id) is None


@pytest.mark.parametrize(
    "row_id",
    [None, "", "..", "a/../b", "/a", "a/", "a//b", ".", "a b", "a\\b", "ä", "a\n", "a\x00"]
    + ["x" * 241, "x/" * 256 + "x", "%2e%2e", "~/a", "C:/a"],
)
def test_unsafe_ids(row_id: str | None) -> None:
    assert check_id(row_id)


@given(st.text(max_size=600))
def test_a_safe_id_stays_inside_its_folder(row_id: str) -> None:
    if check_id(row_id) is None:
        assert (Path("/run/images") / f"{row_id}.png").resolve().is_relative_to("/run/images")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "bad_id"),
        ({"id": "../up"}, "bad_id"),
        ({"content": None}, "no_content"),
        ({"content": ""}, "no_content"),
        ({"prompt": None}, "no_target"),
        ({"prompt": "  ", "style": ""}, "no_target"),
        ({"seed": -1}, "bad_seed"),
    ],
)
def test_bad_rows_are_rejected_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected, match="manifest row 7") as rejection:
        check_row({**GOOD, **change}, 7, 0)
    assert rejection.value.reason == reason


def test_a_duplicate_names_both_rows_and_the_id() -> None:
    with pytest.raises(Rejected, match=r"row 7 \('a/b-1.x'\): row 3 has this id") as rejection:
        check_row(GOOD, 7, 0, duplicate_of=3)
    assert rejection.value.reason == "duplicate_id"


def test_seeds_are_given_or_derived() -> None:
    assert check_row({**GOOD, "seed": 5}, 0, 9).seed == 5
    assert check_row({**GOOD, "seed": 2**63 - 1}, 0, 9).seed == 2**63 - 1
    assert check_row(GOOD, 0, 9).seed == derive_seed(9, "a/b-1.x")


def test_derived_seeds_never_change() -> None:
    # Fixed for good: another number here makes every published run irreproducible.
    assert derive_seed(0, "cat") == 8534018142825387843
    assert derive_seed(1, "cat") != derive_seed(0, "cat") != derive_seed(0, "dog")


def test_seeds_of_samples_never_change_either() -> None:
    assert derive_sample_seed(8534018142825387843, 1) == 4999349398019823108
    seeds = [derive_sample_seed(seed, sample) for seed in (0, 1, 2**63 - 1) for sample in (1, 2, 3)]
    assert len(set(seeds)) == 9 and all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_retries_never_change_either() -> None:
    assert derive_retry_seed(8534018142825387843, 1) == 19690689447131091
    seeds = [derive(7, n) for derive in (derive_sample_seed, derive_retry_seed) for n in (1, 2, 3)]
    assert len({7, *seeds}) == 7 and all(0 <= seed < 2**63 for seed in seeds)


def row(**change: Any) -> Row:
    values = {"style": None, "prompt": "x", "source_prompt": None, "mask": None, **change}
    return Row(id="r", content=values.pop("content", "c.png"), seed=1, **values)


def test_images_are_read_relative_to_the_folder(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), "red").save(tmp_path / "c.png")
    gray = np.zeros((4, 5), np.uint8)
    gray[:, 3:] = 140
    Image.fromarray(gray).save(tmp_path / "m.png")
    request = load_request(row(style="c.png", mask="m.png"), str(tmp_path))
    assert request.content.shape == (4, 5, 3) and request.style is not None
    assert request.mask is not None
    assert request.mask[0].tolist() == [0, 0, 0, 255, 255]


def test_rows_share_images_by_column_and_where_they_lie(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (5, 4), "red" if name[0] == "a" else "blue").save(tmp_path / name)
    fetched: list[str] = []

    def read(uri: str) -> bytes:
        fetched.append(str(Path(uri).relative_to(tmp_path)))
        return Path(uri).read_bytes()

    caches = {"style": ImageCache(1 << 20)}
    for folder in ("a", "b", "a"):
        for _ in range(2):
            found = load_request(
                row(content="x.png", style="x.png"), str(tmp_path / folder), read, caches
            )
            assert found.style is not None and np.array_equal(found.style, found.content)
    # Each content, and a style of each folder.
    assert sorted(fetched) == ["a/x.png"] * 5 + ["b/x.png"] * 3


def test_a_image_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    caches = {"content": ImageCache(1 << 20)}
    with pytest.raises(Rejected, match="content c.png: there is no such file"):
        load_request(row(), str(tmp_path), caches=caches)
    Image.new("RGB", (5, 4), "red").save(tmp_path / "c.png")
    assert load_request(row(), str(tmp_path), caches=caches).content.shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": "none.png"}, "missing_picture"),
        ({"content": "."}, "missing_picture"),
        ({"content": "c.png", "style": "none.png"}, "missing_picture"),
        ({"content": "bad.png"}, "unreadable_picture"),
        ({"content": "nosuch://c.png"}, "bad_uri"),
        ({"content": "c.png", "mask": "small.png"}, "bad_request"),
    ],
)
def test_faults_of_images(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    Image.new("RGB", (5, 4), "red").save(tmp_path / "c.png")
    Image.new("RGB", (2, 2), "white").save(tmp_path / "small.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(Rejected) as rejection:
        load_request(row(**change), str(tmp_path))
    assert rejection.value.reason == reason


def test_storage_that_does_not_answer_fails_the_row_without_its_secrets() -> None:
    def read(uri: str) -> bytes:
        raise OSError(f"503 from {uri}")

    with pytest.raises(Failed) as failure:
        load_request(row(content="https://host/c.png?signature=s3cr3t"), "/", read)
    assert failure.value.reason == "fetch_error"
    assert "s3cr3t" not in str(failure.value) and "https://host/c.png" in str(failure.value)


def test_a_password_in_a_uri_is_refused_before_any_driver_repeats_it() -> None:
    row = check_row({"id": "a", "content": "s3://me:hunter2@bucket/a.png", "prompt": "x"}, 0, 0)

    def read(uri: str) -> bytes:
        raise ValueError(f"Invalid bucket name {uri!r}")

    with pytest.raises(Rejected) as caught:
        load_request(row, "/", read)
    assert caught.value.reason == "bad_uri"
    assert "hunter2" not in str(caught.value) and "environment" in str(caught.value)
