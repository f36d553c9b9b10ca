"""Names of bytes in a file, and who reads them."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from dstc.errors import StorageError
from dstc.store.byte_ranges import ByteRange, byte_range, is_stored, read_stored
from dstc.store.input_policy import ASKED_FOR, STRICT, InputPolicy, InputTooLarge, NotAllowed
from dstc.store.inputs import read_input
from dstc.store.retries import Patience


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("images/7.tar#bytes=0-9", ByteRange("images/7.tar", 0, 10)),
        ("s3://b/é #/7.parquet#bytes=512-512", ByteRange("s3://b/é #/7.parquet", 512, 513)),
        ("images/7.tar", None),
        ("images/7.png#bytes=0-9", None),
        ("images/7.tar#bytes=9-0", None),
        ("images/7.tar#bytes=-9", None),
        ("images/7.tar#bytes=0-9 ", None),
    ],
)
def test_a_name_is_taken_for_bytes_only_where_it_is_one(name: str, found: ByteRange | None) -> None:
    assert byte_range(name) == found
    assert found is None or str(found) == name


def test_bytes_are_read_as_http_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "7.tar"
    file.write_bytes(b"0123456789")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/ranges/7.tar", b"0123456789")
    for folder in (str(tmp_path), "memory://ranges"):
        assert read_stored(f"{folder}/7.tar#bytes=2-4") == b"234"
        assert read_stored(f"{folder}/7.tar") == b"0123456789"
        assert is_stored(f"{folder}/7.tar#bytes=2-9") and is_stored(f"{folder}/7.tar")
        for gone in ("7.tar#bytes=2-10", "7.tar#bytes=20-30", "8.tar#bytes=0-1", "8.tar"):
            assert not is_stored(f"{folder}/{gone}")
            with pytest.raises(FileNotFoundError):
                read_stored(f"{folder}/{gone}", Patience(0, 1))


def test_a_manifest_may_name_bytes_and_its_policy_holds(tmp_path: Path) -> None:
    (tmp_path / "7.tar").write_bytes(b"0123456789")
    name = f"{tmp_path}/7.tar#bytes=2-4"
    assert read_input(name, ASKED_FOR) == read_input(f"file://{name}", ASKED_FOR) == b"234"
    assert read_input(name, InputPolicy(any_local=True, max_bytes=3)) == b"234"
    with pytest.raises(InputTooLarge):
        read_input(name, InputPolicy(any_local=True, max_bytes=2))
    with pytest.raises(NotAllowed):
        read_input(name, STRICT)
    with pytest.raises(FileNotFoundError):
        read_input(f"{tmp_path}/7.tar#bytes=2-10", ASKED_FOR)
    with pytest.raises(StorageError, match="on a web server; expected a file or an object store"):
        read_input("https://example.org/7.tar#bytes=2-4", ASKED_FOR)
