"""Rows for the local cluster: as many as asked for, all different, all usable."""

from __future__ import annotations

import fsspec
import pyarrow.parquet as pq

from deploy.demo_rows import IMAGES, demo_rows, put_demo
from dstc.worker.row import check_row


def test_any_number_of_rows_with_different_ids_that_the_job_takes() -> None:
    rows = demo_rows(500).to_pylist()
    assert len({row["id"] for row in rows}) == 500
    for number, row in enumerate(rows):
        assert check_row({**row, "mask": None, "seed": None}, number, 0, None).id == row["id"]
    assert demo_rows(10).to_pylist() == rows[:10], "a longer list begins like a shorter one"


def test_all_kinds_of_guidance_and_many_images_come_early() -> None:
    rows = demo_rows(30).to_pylist()
    assert len({row["content"] for row in rows}) == 30
    kinds = [(row["prompt"] is not None, row["style"] is not None) for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        (True, False): 10,
        (False, True): 10,
        (True, True): 10,
    }


def test_no_row_asks_for_the_look_it_has() -> None:
    for row in demo_rows(200).to_pylist():
        assert row["content"].split("/")[1] != row["target_style"]


def test_manifest_and_images_are_put_side_by_side() -> None:
    storage = fsspec.filesystem("memory")
    path = put_demo(storage, "/bucket/demo-rows", 7)
    rows = pq.read_table(storage.open(path)).to_pylist()
    assert len(rows) == 7
    for row in rows:
        for name in filter(None, (row["content"], row["style"])):
            source = IMAGES.parent / name
            assert storage.cat_file(f"/bucket/demo-rows/{name}") == source.read_bytes()
