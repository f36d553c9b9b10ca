"""What was assumed of a row's images stands in its result."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.hostile.image_files import RAMP, saved, tiff
from tests.unit.dstc.one_actor import MakeJob, Write


def test_a_row_that_is_done_tells_what_was_assumed(
    write_manifest: Write, tmp_path: Path, make_job: MakeJob
) -> None:
    (tmp_path / "float.tif").write_bytes(tiff(RAMP.astype(np.float32)))
    (tmp_path / "plain.png").write_bytes(saved(RAMP))
    float_image, plain = str(tmp_path / "float.tif"), str(tmp_path / "plain.png")
    columns = {
        "id": ["content", "again", "style", "plain"],
        "content": [float_image, float_image, plain, plain],
        "style": [None, None, float_image, plain],
        "prompt": ["x"] * 4,
    }
    results = make_job(write_manifest(columns)).translate().to_pylist()
    assert [row["status"] for row in results] == ["done"] * 4
    assert [row["reason"] for row in results] == [None] * 4
    note = "32-bit floats of no stated range are read as 0 to 255"
    assert [row["error"] for row in results] == [
        f"note: content: {note}",
        f"note: content: {note}",
        f"note: style: {note}",
        None,
    ]
