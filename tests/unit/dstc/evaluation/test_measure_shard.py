"""One actor measures a shard, without Ray: what each row gets, and what ends the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dstc.evaluation import measure_shard
from dstc.evaluation.measure_shard import SCHEMA, MeasureShard, MeasureTask
from dstc.evaluation.plan import EvaluationConfig, features_part, metrics_part, unmeasured
from dstc.evaluation.summary import print_summary, summarize_metrics
from dstc.store import inputs
from dstc.store.input_policy import InputPolicy
from dstc.store.run_folder import RunFolder
from dstc_engine.image import fit
from dstc_engine.metrics.evaluation_models import EvaluationModels
from dstc_engine.metrics.pixels import l1, psnr
from tests.unit.dstc.evaluation.conftest import MakeRun, image, save

BLIND = EvaluationConfig("", 64, -1, "", truth="truth", image_size=64, fit="crop")
SHARD_0 = pa.table({"of_reference": [False], "number": [0]})


def measured(run: RunFolder, config: EvaluationConfig) -> dict[str, dict[str, Any]]:
    MeasureShard(MeasureTask(run.uri, config, "cpu", 1, None, 10, None))(SHARD_0)
    table = pq.read_table(metrics_part(run, 0))
    assert table.schema.remove_metadata() == SCHEMA
    return {row["id"]: row for row in table.to_pylist()}


def test_images_of_mixed_sizes_that_were_padded(make_run: MakeRun, tmp_path: Path) -> None:
    """Pixels are compared where there are any, networks and segmentations see the square."""
    wide, thin = image(1, 100, 200), image(2, 10, 200)
    shown = {"wide": fit(wide, 64, "pad")[16:48], "thin": fit(thin, 64, "pad")[30:33]}
    rows: list[dict[str, Any]] = [
        {
            "id": name,
            "content": save(tmp_path / f"{name}.png", content),
            "truth": save(tmp_path / f"{name}-truth.png", content),
            "style": save(tmp_path / "style.png", image(3, 300, 120)),
            "result": shown[name],
        }
        for name, content in (("wide", wide), ("thin", thin))
    ]
    noisy = shown["wide"].astype(int) + np.random.default_rng(4).integers(-9, 9, (32, 64, 3))
    noisy = noisy.clip(0, 255).astype(np.uint8)
    rows.append({**rows[0], "id": "noisy", "result": noisy})
    run = make_run(rows, fit="pad")
    config = EvaluationConfig("", 64, -1, "", "truth", 64, "pad", segmentation="foreground")
    found = measured(run, config)
    assert all(row["metrics_error"] is None for row in found.values())
    assert found["wide"]["truth_psnr"] == 100 and found["wide"]["truth_ssim"] == 1
    assert found["thin"]["truth_l1"] == 0 and found["thin"]["truth_ssim"] is None
    # White padding beside it would make the difference look smaller.
    assert found["noisy"]["truth_l1"] == pytest.approx(l1(noisy, shown["wide"]))
    assert found["noisy"]["truth_psnr"] == pytest.approx(psnr(noisy, shown["wide"]))
    assert found["wide"]["mask_iou"] == 1 and found["wide"]["style_copy_mask_iou"] < 1
    assert found["wide"]["style_copy_truth_l1"] > 0


def test_rows_that_cannot_be_measured(make_run: MakeRun, tmp_path: Path) -> None:
    content = save(tmp_path / "a.png", image(1))
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows: list[dict[str, Any]] = [
        {"id": "plain", "content": content, "result": image(2)},
        {"id": "failed", "content": content, "result": None},
        {"id": "gone", "content": str(tmp_path / "gone.png"), "result": image(2)},
        {"id": "broken", "content": content, "truth": "broken.png", "result": image(2)},
        {"id": "truth", "content": content, "truth": content, "result": image(2)},
        {"id": "scheme", "content": content, "style": "nosuch://x/y.png", "result": image(2)},
    ]
    rows[3]["truth"] = str(tmp_path / "broken.png")
    run = make_run(rows)
    Path(run.uri, run.image_name("plain")).unlink()
    found = measured(run, BLIND)
    assert list(found) == ["plain", "failed", "gone", "broken", "truth", "scheme"]
    assert "plain" in found["plain"]["metrics_error"]
    assert "gone.png" in found["gone"]["metrics_error"]
    assert "broken.png: not a readable image" in found["broken"]["metrics_error"]
    assert "nosuch" in found["scheme"]["metrics_error"]
    assert found["failed"]["metrics_error"] is None and found["failed"]["status"] == "failed"
    assert found["truth"]["metrics_error"] is None and found["truth"]["truth_l1"] > 0
    assert found["truth"]["source_copy_truth_l1"] == 0
    summary = summarize_metrics(run, BLIND, [0], 7)
    assert summary["unmeasured"] == 4 and summary["statuses"] == {"done": 5, "failed": 1}
    assert summary["metrics"]["truth_l1"]["count"] == 1 and summary["sets"] is None


def test_masks_that_are_given_stand_in_for_the_content(make_run: MakeRun, tmp_path: Path) -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:32] = 255
    run = make_run(
        [
            {
                "id": "row",
                "content": save(tmp_path / "a.png", image(1)),
                "mask": save(tmp_path / "mask.png", mask),
                "result": image(2),
            }
        ]
    )
    config = EvaluationConfig(
        "", 64, -1, "", None, 64, "crop", segmentation="foreground", masks="mask"
    )
    assert measured(run, config)["row"]["mask_iou"] == pytest.approx(0.5)


def test_a_image_that_rows_share_is_fetched_once(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = save(tmp_path / "style.png", image(9))
    run = make_run(
        [
            {
                "id": f"row-{n}",
                "content": save(tmp_path / f"{n}.png", image(n)),
                "style": style,
                "result": image(20 + n),
            }
            for n in range(40)
        ]
    )
    read, asked = inputs.read_input, list[str]()

    def counted(uri: str, policy: InputPolicy) -> bytes:
        asked.append(uri)
        return read(uri, policy)

    monkeypatch.setattr("dstc.evaluation.measure_shard.read_input", counted)
    assert len(measured(run, BLIND)) == 40
    assert asked.count(style) == 1 and asked.count(str(tmp_path / "3.png")) == 1


def test_a_fault_of_the_measuring_is_no_fault_of_the_row(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run([{"id": "a", "content": save(tmp_path / "a.png", image(1)), "result": image(2)}])

    def out_of_memory(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(EvaluationModels, "features", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        measured(run, BLIND)
    assert not Path(metrics_part(run, 0)).exists()
    assert unmeasured(run, BLIND, [0]) == [0]


def test_sets_are_compared_with_the_styles_of_the_run(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 80 rows in 50 styles, results that are the styles are nearer than the contents."""
    styles = [save(tmp_path / f"s{n}.png", 255 - image(n)) for n in range(50)]
    rows = [
        {
            "id": f"row-{n:02d}",
            "content": save(tmp_path / f"c{n}.png", image(100 + n)),
            "style": styles[n % 50],
            "wanted": "dark" if n % 2 else "pale",
            "result": 255 - image(n % 50),
        }
        for n in range(80)
    ]
    run = make_run(rows)
    config = EvaluationConfig("emoji64-vit", 64, -1, "", None, 64, "crop", style_column="wanted")
    MeasureShard(MeasureTask(run.uri, config, "cpu", 1, None, 10, None))(SHARD_0)
    features = pq.read_table(features_part(run, 0))
    assert features["set"].to_pylist() == ["results", "source_copy", "style_copy"] * 10
    assert summarize_metrics(run, config, [0], 80)["sets"] is None, "ten are too few"

    MeasureShard(MeasureTask(run.uri, config, "cpu", 1, None, 100, None))(SHARD_0)
    summary = summarize_metrics(run, config, [0], 80)
    sets = summary["sets"]
    assert sets["reference_pictures"] == 50 and sets["results"]["pictures"] == 80
    assert sets["network"] == "emoji64-vit, class token"
    for name in ("frechet_distance", "mean_distance", "class_mean_distance", "kernel_distance"):
        ours, copied = sets["results"][name]["value"], sets["source_copy"][name]["value"]
        assert ours < copied / 3, name
    print_summary(summary)
    printed = capsys.readouterr().out
    assert "frechet_distance" in printed and "FID" not in printed
    assert "from 50 images of the run's style images" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("class_mean_distance")]
    assert line.rstrip().endswith("80"), "in a pipe no cell is folded"
    assert max(map(len, printed.splitlines())) < 200


def test_damaged_parts_are_told_and_measured_again(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([{"id": "a", "content": save(tmp_path / "a.png", image(1)), "result": image(2)}])
    measured(run, BLIND)
    assert unmeasured(run, BLIND, [0]) == []
    Path(metrics_part(run, 0)).write_bytes(b"PAR1 and no more")
    assert summarize_metrics(run, BLIND, [0], None)["damaged_parts"] == [0]
    assert unmeasured(run, BLIND, [0]) == [0]
    assert list(measured(run, BLIND)) == ["a"] and unmeasured(run, BLIND, [0]) == []


def test_a_decoder_that_exits_costs_its_row_alone(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", image(1, 64, 64))
    rows = [{"id": n, "content": path, "truth": path, "result": image(1, 64, 64)} for n in "ab"]
    run = make_run(rows)
    real = measure_shard.read_images

    def exits(run: RunFolder, config: Any, row: Any, *others: Any) -> Any:
        if row["id"] == "a":
            raise SystemExit(1)
        return real(run, config, row, *others)

    monkeypatch.setattr(measure_shard, "read_images", exits)
    found = measured(run, BLIND)
    assert found["a"]["metrics_error"] == "SystemExit: 1"
    assert found["b"]["metrics_error"] is None
