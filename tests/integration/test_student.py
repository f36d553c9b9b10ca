"""A run by a student, with guidance for a look that it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.distil import DistilPlan, distil
from dstc.options import Device
from dstc.planning.settings import make_settings
from dstc.status import read_status
from dstc.translate import OK, run
from dstc_engine.image import encode_png
from tests.pilot import FAST, drawing, open_gates, write_pilot
from tests.ray_session import RAY_WARNINGS

pytestmark = RAY_WARNINGS

ROWS = 6


@pytest.mark.usefixtures("ray_session")
def test_known_looks_are_the_students_and_others_are_guided(tmp_path: Path) -> None:
    distil(
        DistilPlan(
            run=str(write_pilot(tmp_path)),
            out=str(tmp_path / "student"),
            device=Device.cpu,
            steps=1,
            batch=4,
            settings=FAST,
        )  # fmt: skip
    )
    open_gates(tmp_path / "student")
    (tmp_path / "data/style/other.png").write_bytes(encode_png(drawing(5)))
    styles = ["style/other.png", *["style/0.png"] * (ROWS - 1)]
    rows = {
        "id": [f"row-{n}" for n in range(ROWS)],
        "content": [f"content/{n}.png" for n in range(ROWS)],
        "style": styles,
    }
    manifest = tmp_path / "data" / "all.parquet"
    pq.write_table(pa.table(rows), manifest)
    settings = make_settings(
        manifest=str(manifest), output=str(tmp_path / "out"), student=str(tmp_path / "student"),
        rows_per_shard=3, actors="1",
    )  # fmt: skip
    assert run(settings) == OK
    results = {r["id"]: r for r in pq.read_table(tmp_path / "out" / "results").to_pylist()}
    assert [results[f"row-{n}"]["made_by"] for n in range(ROWS)] == ["guided"] + ["student"] * 5
    assert results["row-0"]["losses"] and not results["row-1"]["losses"]
    assert results["row-0"]["gate_distances"] is None
    assert results["row-1"]["gate_distances"]["structure"] >= 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["made_by"] == {"student": 5, "guided": 1}
    assert read_status(str(tmp_path / "out")).made_by == {"student": 5, "guided": 1}
    assert run(settings) == OK  # all is there already
