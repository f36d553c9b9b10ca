from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstc.errors import ManifestError
from dstc.store.duplicates import Duplicates
from dstc.store.manifest import SHARDS_PER_READ, Manifest, ManifestFile, open_manifest
from dstc.store.packed_rows import unpack_rows
from dstc.worker.read_shards import ManifestShards, read_shards

Write = Callable[..., Path]


def columns(rows: int, **extra: Any) -> dict[str, Any]:
    return {
        "id": [str(number) for number in range(rows)],
        "content": ["c.png"] * rows,
        "prompt": ["a dog"] * rows,
        **extra,
    }


def read_all(manifest: Manifest) -> pa.Table:
    source = ManifestShards(manifest, range(manifest.shards), manifest.duplicates())
    records = [
        record
        for task in source.get_read_tasks(1)
        for block in task()
        for record in block.to_pylist()
    ]
    assert [record["shard"] for record in records] == list(range(manifest.shards))
    return pa.concat_tables([unpack_rows(record["rows"]) for record in records])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, r"column 'id': not found; expected a string column"),
        ({"content": None}, r"column 'content': not found"),
        ({"prompt": None}, r"neither column 'style' nor 'prompt' found"),
        ({"id": [1, 2]}, r"column 'id': found int64; expected string"),
        ({"style": [1.5, 2.5]}, r"column 'style': found double; expected string"),
        ({"seed": [1.0, None]}, r"column 'seed': found double; expected int64.*pandas"),
        ({"seed": ["1", "2"]}, r"column 'seed': found string; expected int64"),
    ],
)
def test_wrong_columns_are_named(
    write_manifest: Write, change: dict[str, Any], message: str
) -> None:
    found = {k: v for k, v in {**columns(2), **change}.items() if v is not None}
    path = write_manifest(found)
    with pytest.raises(ManifestError, match=r"manifest file manifest.parquet.*" + message):
        open_manifest(str(path), 2)


def test_missing_empty_and_unreadable_manifests(tmp_path: Path, write_manifest: Write) -> None:
    with pytest.raises(ManifestError, match="there is no such manifest"):
        open_manifest(str(tmp_path / "no.parquet"), 2)
    with pytest.raises(ManifestError, match=r"holds no \.parquet file"):
        open_manifest(str(tmp_path), 2)
    with pytest.raises(ManifestError, match="no file matches"):
        open_manifest(str(tmp_path / "*.parquet"), 2)
    bad = tmp_path / "bad.parquet"
    for content in (b"", b"PAR1 this is no Parquet PAR1", b"id,content\n1,a.png\n"):
        bad.write_bytes(content)
        with pytest.raises(ManifestError, match=r"bad\.parquet: not a readable Parquet file"):
            open_manifest(str(bad), 2)
    empty = write_manifest({k: pa.array(v, pa.string()) for k, v in columns(0).items()})
    with pytest.raises(ManifestError, match="has no rows"):
        open_manifest(str(empty), 2)


def test_types_that_mean_the_same_are_normalized(write_manifest: Write) -> None:
    path = write_manifest(
        {
            "id": pa.array(["a", "b"], pa.large_string()),
            "content": pa.array(["c", "c"]).dictionary_encode(),
            "prompt": ["x", "y"],
            "style": pa.nulls(2),
            "seed": pa.array([1, None], pa.int32()),
        }
    )
    rows = read_all(open_manifest(str(path), 1))
    assert rows.schema.types == [pa.string()] * 4 + [pa.int64()]
    assert rows.column("seed").to_pylist() == [1, None]


def test_extra_columns_keep_their_types(write_manifest: Write) -> None:
    extra = {
        "boxes": pa.array([[[1.0, 2.0]], None], pa.list_(pa.list_(pa.float32(), 2))),
        "label": pa.array(["cat", "dog"]).dictionary_encode(),
        "meta": pa.array([{"a": 1, "b": "x"}, None]),
        "raw": pa.array([b"\x00", b""], pa.large_binary()),
    }
    path = write_manifest(columns(2, **extra))
    rows = read_all(open_manifest(str(path), 1))
    for name, expected in extra.items():
        assert rows.schema.field(name).type == pq.read_schema(path).field(name).type
        assert rows.column(name).to_pylist() == expected.to_pylist()


def test_files_of_a_folder_must_agree(tmp_path: Path, write_manifest: Write) -> None:
    write_manifest(columns(2, label=[1, 2]), "set/a.parquet")
    write_manifest(columns(2, label=["x", "y"]), "set/b.parquet")
    with pytest.raises(ManifestError, match=r"b\.parquet, column 'label': found string; expected"):
        open_manifest(str(tmp_path / "set"), 2)


def test_folder_glob_and_hidden_files(tmp_path: Path, write_manifest: Write) -> None:
    write_manifest(columns(3), "set/a.parquet")
    write_manifest(columns(2), "set/deep/b.parquet")
    write_manifest(columns(9), "set/_draft.parquet")
    folder = open_manifest(str(tmp_path / "set"), 2)
    assert [file.name for file in folder.files] == ["a.parquet", "deep/b.parquet"]
    assert (folder.rows, folder.shards) == (5, 3)
    assert open_manifest(str(tmp_path / "set/a*.parquet"), 2).rows == 3


def test_a_moved_manifest_is_the_same_and_a_changed_one_is_not(write_manifest: Write) -> None:
    here = open_manifest(str(write_manifest(columns(3), "here/m.parquet")), 2)
    there = open_manifest(str(write_manifest(columns(3), "there/m.parquet")), 2)
    other = open_manifest(str(write_manifest(columns(4), "other/m.parquet")), 2)
    assert here.identity() == there.identity() != other.identity()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    files=st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 20),
    rows_per_shard=st.integers(1, 12),
    limit=st.none() | st.integers(1, 60),
)
def test_shards_hold_every_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[int],
    group: int,
    rows_per_shard: int,
    limit: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    ids = [f"{file}-{row}" for file, rows in enumerate(files) for row in range(rows)]
    for number, rows in enumerate(files):
        own = [name for name in ids if name.startswith(f"{number}-")]
        table = pa.table(
            {"id": pa.array(own, pa.string()), "content": pa.array(own), "prompt": pa.array(own)},
            schema=pa.schema([(name, pa.string()) for name in ("id", "content", "prompt")]),
        )
        assert table.num_rows == rows
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group)
    manifest = open_manifest(str(folder), rows_per_shard, limit=limit)
    expected = ids[: manifest.rows]
    assert len(expected) == min(limit or len(ids), len(ids))
    # The last shard comes whole, since its rows beyond a limit may have results to be kept.
    found = read_all(manifest).column("id").to_pylist()
    assert found == ids[: len(found)] and len(expected) <= len(found)
    assert len(found) - len(expected) < rows_per_shard
    # Any selection of shards reads the same rows as the whole.
    some = [manifest.shard(number) for number in range(0, manifest.shards, 2)]
    for shard in some:
        ((_, rows_read),) = read_shards([shard], manifest.schema)
        assert (
            rows_read.column("id").to_pylist()
            == expected[shard.first_row : shard.first_row + shard.rows]
        )


def test_read_tasks_take_many_shards_of_one_file(write_manifest: Write) -> None:
    manifest = open_manifest(str(write_manifest(columns(600))), 1)
    none = Duplicates(*(manifest.duplicates().rows,) * 2)
    source = ManifestShards(manifest, range(600), none)
    assert [len(group) for group in source.reads] == [256, 256, 88]
    assert all(block.num_rows == 1 for task in source.get_read_tasks(3) for block in task())


NO_DUPLICATES = Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))


def planned(files: list[int], rows_per_shard: int, limit: int | None = None) -> Manifest:
    """What `open_manifest` makes of files with so many rows, without the files."""
    found, row, shard = [], 0, 0
    for number, rows in enumerate(files):
        found.append(ManifestFile(f"/m/{number}.parquet", f"{number}", rows, 1, "", row, shard))
        row += rows
        shard += -(-rows // rows_per_shard)
    return Manifest("/m", tuple(found), pa.schema([]), min(row, limit or row), rows_per_shard)


@settings(deadline=None)
@given(
    files=st.lists(st.integers(1, 900), min_size=1, max_size=5),
    rows_per_shard=st.integers(1, 12),
    limit=st.none() | st.integers(1, 2000),
    chosen=st.data(),
)
def test_counts_and_read_tasks_agree_with_the_shards_one_by_one(
    files: list[int], rows_per_shard: int, limit: int | None, chosen: st.DataObject
) -> None:
    manifest = planned(files, rows_per_shard, limit)
    shards = [manifest.shard(number) for number in range(manifest.shards)]
    assert sum(shard.rows for shard in shards) == manifest.rows
    ends = itertools.accumulate(shard.rows for shard in shards)
    assert [shard.first_row + shard.rows for shard in shards] == list(ends)
    done = chosen.draw(st.sets(st.integers(0, manifest.shards - 1)))
    assert manifest.rows_of(done) == sum(shards[number].rows for number in done)
    left = manifest.shards_without(done)
    assert list(left) == [number for number in range(manifest.shards) if number not in done]
    assert bool(left) == (len(done) < manifest.shards)
    groups = ManifestShards(manifest, left, NO_DUPLICATES).reads
    assert [shard for group in groups for shard in group] == [shards[number] for number in left]
    for group in groups:
        assert 1 <= len(group) <= SHARDS_PER_READ
        assert {shard.file for shard in group} == {group.file}


def test_read_tasks_of_ten_million_rows_are_small() -> None:
    manifest = planned([10_000_000], 16)
    tasks = ManifestShards(manifest, range(manifest.shards), NO_DUPLICATES).get_read_tasks(1)
    assert (manifest.shards, len(tasks)) == (625_000, 2_442)
    assert max(len(pickle.dumps(task)) for task in tasks) < 4_096
