"""`dstc evaluate` over runs with rows of every kind: complete, continued, unfinished, empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.errors import RunFolderError, SettingsError
from dstc.evaluate import EvaluateOptions, evaluate
from dstc.evaluation.plan import IDENTITY
from dstc.planning.settings import Settings, make_settings
from dstc.translate import OK, run
from dstc_engine.presets import TINY64
from tests.ray_session import RAY_WARNINGS

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]

Columns = Callable[[int], dict[str, list[Any]]]


def settings_of(manifest: Path, output: Path, **values: Any) -> Settings:
    defaults = {"engine": "fake", "rows_per_shard": 3, "slots": 3, "max_rejected": 0.5}
    return make_settings(manifest=str(manifest), output=str(output), **{**defaults, **values})


def metric_rows(output: Path) -> dict[str, dict[str, Any]]:
    parts = sorted((output / "metrics").glob("part-*.parquet"))
    rows = pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()
    return {row["id"]: row for row in rows}


def times_of(output: Path) -> dict[str, int]:
    parts = (output / "metrics").glob("part-*.parquet")
    return {part.name: part.stat().st_mtime_ns for part in parts}


def change_image_sum(part: Path) -> None:
    table = pq.read_table(part)
    sums = ["0" * 64, *table["image_sha256"].to_pylist()[1:]]
    place = table.column_names.index("image_sha256")
    pq.write_table(table.set_column(place, "image_sha256", [sums]), part)


@pytest.fixture
def manifest(tmp_path: Path, good_rows: Columns) -> Path:
    """Six rows of two shards: one has no content, one a truth that is gone."""
    columns = good_rows(6)
    columns["source_prompt"] = ["a thing"] * 5 + [None]
    columns["style"] = [columns["content"][1], None, *columns["content"][2:]]
    columns["truth"] = list(columns["content"])
    columns["truth"][1:3] = [None, str(tmp_path / "gone.png")]
    columns["content"][4] = ""
    path = tmp_path / "manifest.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_run_is_measured_once_and_what_is_new_later(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert run(settings_of(manifest, output, limit=3)) == OK
    first = evaluate(EvaluateOptions(str(output)))
    assert (first["rows"], first["expected_rows"], first["unmeasured"]) == (3, 6, 1)
    assert "3 rows have no result yet" in capsys.readouterr().out
    before = times_of(output)

    assert run(settings_of(manifest, output)) == OK
    found = evaluate(EvaluateOptions(str(output), actors=2))
    after = times_of(output)
    assert len(after) == 2 and before.items() <= after.items()
    assert json.loads((output / "metrics.json").read_text()) == found
    assert found["statuses"] == {"done": 5, "rejected": 1}

    rows = metric_rows(output)
    assert list(rows) == [f"row/{number:03d}" for number in range(6)]
    whole, no_style, gone, rejected = (rows[f"row/{n:03d}"] for n in (0, 1, 2, 4))
    # The truth of this row is its content.
    assert whole["source_copy_structure_distance"] == 0
    assert whole["source_copy_truth_l1"] == 0 and whole["source_copy_truth_ssim"] == 1
    assert whole["style_copy_style_similarity"] == pytest.approx(1.0, abs=1e-5)
    assert whole["structure_distance"] > 0 and -1 <= whole["clip_score"] <= 1
    assert no_style["style_similarity"] is None and no_style["style_copy_clip_score"] is None
    assert no_style["truth_psnr"] is None and no_style["structure_distance"] is not None
    assert "gone.png" in gone["metrics_error"] and gone["structure_distance"] is None
    assert rejected["status"] == "rejected" and rejected["metrics_error"] is None
    assert all(value is None for key, value in rejected.items() if key not in ("id", "status"))
    assert rows["row/005"]["clip_direction"] is None, "it has no source prompt"

    metrics = found["metrics"]
    assert metrics["structure_distance"]["count"] == 4
    assert metrics["truth_psnr"]["count"] == 3
    assert found["baselines"]["source_copy"]["structure_distance"]["mean"] == 0
    low, mean, high = (metrics["clip_score"][key] for key in ("low", "mean", "high"))
    assert low <= mean <= high
    identity = json.loads(
        pq.read_schema(output / "metrics" / "part-00000.parquet").metadata[IDENTITY]
    )
    assert identity["judging"]["dino"] == TINY64.dino and identity["judging"]["truth"] == "truth"


def test_what_is_measured_again(manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert run(settings_of(manifest, output)) == OK
    found = evaluate(EvaluateOptions(str(output), clip="none"))
    first = times_of(output)
    assert len(first) == 2 and "clip_score" not in found["metrics"]
    # Again: nothing is new. With another judge: all of it is.
    assert evaluate(EvaluateOptions(str(output), clip="none")) == found
    assert times_of(output) == first
    blind = evaluate(EvaluateOptions(str(output), clip="none", dino="none"))
    assert not {"structure_distance", "style_similarity"} & blind["metrics"].keys()
    blindly = times_of(output)
    assert not first.items() & blindly.items()
    # An image that another try has made anew is measured again, with its shard.
    change_image_sum(output / "results" / "part-00001.parquet")
    evaluate(EvaluateOptions(str(output), clip="none", dino="none"))
    assert first.keys() == times_of(output).keys()
    assert [name for name, at in times_of(output).items() if at != blindly[name]] == [
        "part-00001.parquet"
    ]


def test_no_run_an_empty_one_and_a_column_that_is_not_there(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a run folder"):
        evaluate(EvaluateOptions(str(tmp_path)))
    output = tmp_path / "run"
    assert run(settings_of(manifest, output, limit=1)) == OK
    with pytest.raises(SettingsError, match="--truth: found 'nosuch'; expected a column"):
        evaluate(EvaluateOptions(str(output), truth="nosuch"))
    for part in (output / "results").iterdir():
        part.unlink()
    found = evaluate(EvaluateOptions(str(output)))
    assert (found["rows"], found["metrics"]) == (0, {})
