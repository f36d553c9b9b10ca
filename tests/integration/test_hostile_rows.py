"""Hostile rows of all kinds in one manifest and one run: each ends as its case says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dstc.planning.settings import make_settings
from dstc.translate import SOME_FAILED, run
from dstc.verify import verify
from tests.hostile import test_images, test_masks, test_uris
from tests.hostile.case import Case
from tests.hostile.hostile_host import HostileHost, hostile_host  # noqa: F401
from tests.ray_session import RAY_WARNINGS

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]

# They wait for minutes here, where storage and bodies have the patience of a real run.
_SLOW = {"slow_body", "slow_headers", "denied", "redirect_for_ever"}
_COLUMNS = ("content", "style", "prompt", "source_prompt", "mask")


def rows_of_uris(folder: Path, host: HostileHost) -> list[tuple[Case, dict[str, Any]]]:
    """Those that may be tried with local files and private hosts allowed, as in this run."""
    tries = test_uris.tries(folder, host)
    allowed = {
        case.name: tries[case.name]
        for case in test_uris.CASES
        if tries[case.name].policy.any_local
        and (tries[case.name].policy.private_hosts or "loopback" not in case.name)
        and case.name not in _SLOW
    }
    return [
        (case, dict(allowed[case.name].values)) for case in test_uris.CASES if case.name in allowed
    ]


def rows_of_images(folder: Path) -> list[tuple[Case, dict[str, Any]]]:
    rows: list[tuple[Case, dict[str, Any]]] = []
    Image.new("RGB", (80, 64), "red").save(folder / "under-masks.png")
    images = [(case, make()) for case, make, _ in test_images.NUMBER_CASES]
    images += [(case, make()) for case, make, *_ in test_images.METADATA_CASES]
    images += [(case, data) for case, data, _ in test_images.OTHER_CASES]
    masks = [(case, make()) for case, make in test_masks.GOOD_CASES]
    masks += [(case, make()) for case, make, _ in test_masks.BAD_CASES]
    for column, files in (("content", images), ("mask", masks)):
        for case, data in files:
            name = f"{column}-{case.name}.bin"
            (folder / name).write_bytes(data)
            row = {"content": "under-masks.png", "prompt": "a dog", column: name}
            rows.append((case, row))
    return rows


def latin_1(texts: list[str]) -> pa.Array:
    """A column of type string whose bytes are none of UTF-8."""
    data = pa.array([text.encode("latin-1") for text in texts], pa.binary())
    return pa.Array.from_buffers(pa.string(), len(data), data.buffers())


def test_each_row_ends_as_its_case_says(
    tmp_path: Path,
    hostile_host: HostileHost,  # noqa: F811
) -> None:
    rows = [*rows_of_uris(tmp_path, hostile_host), *rows_of_images(tmp_path)]
    assert len(rows) > 140
    ids = [f"{case.kind}/{case.name}".replace(" ", "-") for case, _ in rows]
    columns: dict[str, Any] = {"id": ids}
    columns |= {name: [row.get(name) for _, row in rows] for name in _COLUMNS}
    columns["label"] = latin_1([f"caf\xe9 {number}" for number in range(len(rows))])
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    output = tmp_path / "run"
    settings = make_settings(
        manifest=str(tmp_path / "rows.parquet"),
        output=str(output),
        engine="fake",
        allow_private_hosts=True,
        max_image_bytes=4 << 20,
    )
    assert run(settings) == SOME_FAILED, "more rows are rejected than may be"

    results = result_rows_without_label(output)
    assert [row["id"] for row in results] == ids
    ended = {row["id"]: ": ".join(filter(None, (row["status"], row["reason"]))) for row in results}
    assert ended == {each: case.outcome for each, (case, _) in zip(ids, rows, strict=True)}
    errors = json.dumps([row["error"] for row in results])
    assert "s3cr3t" not in errors and "secret-token" not in errors
    assert max(len(row["error"] or "") for row in results) < 1200
    assert verify(str(output)).is_whole
    assert run(settings) == SOME_FAILED, "and again, without a row to run"


def result_rows_without_label(output: Path) -> list[dict[str, Any]]:
    """Python cannot hold the label's bytes as text."""
    parts = sorted((output / "results").glob("*.parquet"))
    tables = [pq.read_table(part) for part in parts]
    label = pa.concat_tables(tables).column("label").cast(pa.binary()).to_pylist()
    assert label[0] == b"caf\xe9 0" and len(label) == sum(map(len, tables))
    return pa.concat_tables([table.drop_columns(["label"]) for table in tables]).to_pylist()
