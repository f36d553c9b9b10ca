"""Images through an actor: those that rows share, and masks, with the real engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dstc.store import inputs
from dstc_engine.engine import Engine as GuidedEngine
from dstc_engine.image import fit as fit_image
from dstc_engine.image import unpad
from tests.unit.dstc.one_actor import Columns, MakeJob, Write
from tests.unit.dstc_engine import tiny


def test_shared_images_are_fetched_once(
    write_manifest: Write,
    good_rows: Columns,
    images: Path,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    read = inputs.read_input

    def counted(uri: str, *how: Any) -> bytes:
        if uri.endswith(".png"):
            fetched.append(Path(uri).name)
        return read(uri, *how)

    monkeypatch.setattr("dstc.worker.translate_shard.read_input", counted)
    columns = good_rows(48)
    columns["style"] = [str(images / f"p{n % 2}.png") for n in range(48)]
    results = make_job(write_manifest(columns), samples_per_row=2).translate()
    assert set(results.column("status").to_pylist()) == {"done"}
    # Six contents, two styles; an image is kept for each column.
    assert sorted(fetched) == sorted([f"p{n}.png" for n in range(6)] + ["p0.png", "p1.png"])


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_mask_in_a_manifest_keeps_the_content_to_the_pixel(
    fit: str, write_manifest: Write, make_job: MakeJob, tmp_path: Path
) -> None:
    # The whole way: files, decoding, the engine with tiny networks, PNG.
    preset = dataclasses.replace(tiny.PRESET, fit=fit, match_colours=True)
    models = tiny.make_models()
    content = tiny.image(1, 64, 48)
    mask = np.zeros((64, 48), np.uint8)
    mask[30:, :25] = 255
    Image.fromarray(content).save(tmp_path / "c.png")
    Image.fromarray(mask).save(tmp_path / "half.png")
    Image.fromarray(np.stack([mask] * 3, axis=-1)).save(tmp_path / "half.jpg", quality=60)
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "black.png")
    Image.fromarray(np.full_like(mask, 255)).save(tmp_path / "white.png")
    Image.fromarray(mask[:32]).save(tmp_path / "small.png")
    Image.fromarray(tiny.image(2)).save(tmp_path / "s.png")
    masks = [None, "half.png", "half.jpg", "black.png", "white.png", "small.png"]
    columns = {
        "id": [str(mask) for mask in masks],
        "content": ["c.png"] * 6,
        "style": ["s.png"] * 6,
        "mask": masks,
        "seed": [5] * 6,
    }
    job = make_job(
        write_manifest(columns), make_engine=lambda slots: GuidedEngine(models, preset, slots)
    )
    rows = {row["id"]: row for row in job.translate().to_pylist()}
    small = rows.pop("small.png")
    assert (small["status"], small["reason"]) == ("rejected", "bad_request")
    assert "mask is (32, 48); expected the content's (64, 48)" in small["error"]
    made = {}
    for name, row in rows.items():
        assert row["status"] == "done"
        with Image.open(Path(job.run.uri) / row["image"]) as opened:
            made[name] = np.asarray(opened)
    size = tiny.SIZE
    kept = fit_image(content, size, fit)
    kept = unpad(kept, 64, 48) if fit == "pad" else kept
    assert np.array_equal(made["black.png"], kept) and rows["black.png"]["steps"] == 0
    assert np.array_equal(made["white.png"], made["None"])
    assert np.array_equal(made["half.jpg"], made["half.png"]), "what JPEG blurs is set right"
    # The mask's edge lies at row 30 of 64 and column 25 of 48, and the crop starts at row 8.
    row_edge = (30 - 8) * 16 // 48 if fit == "crop" else 30 * 16 // 64
    column_edge = -(-25 * kept.shape[1] // 48)
    assert np.array_equal(made["half.png"][:row_edge], kept[:row_edge])
    assert np.array_equal(made["half.png"][:, column_edge:], kept[:, column_edge:])
    inside = (slice(row_edge + 1, None), slice(0, column_edge - 1))
    assert (made["half.png"][inside] != kept[inside]).mean() > 0.8
