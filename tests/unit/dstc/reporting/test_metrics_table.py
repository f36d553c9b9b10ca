"""metrics.json as a table, whatever it holds."""

from __future__ import annotations

from typing import Any

import pytest

from dstc.reporting.metrics_table import better, make_table
from dstc.store.json_record import MISSING, Record

JOB = Record("job.json", {"preset": {"dino": "vit", "clips": ["a", "b"]}})


def _estimate(mean: Any, low: Any = 0.1, high: Any = 0.3, count: Any = 4) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "count": count}


def _table(values: dict[str, Any], rows: int = 4) -> Any:
    return make_table(Record("metrics.json", values), JOB, rows)


def test_results_stand_beside_both_copies() -> None:
    table = _table(
        {
            "judging": {"dino": "vit", "clip": "other", "truth": None, "image_size": 64},
            "metrics": {"structure_distance": _estimate(0.2), "truth_lpips": _estimate(0.25)},
            "baselines": {
                "source_copy": {"structure_distance": _estimate(0.0, 0.0, 0.0)},
                "style_copy": {"structure_distance": _estimate(0.75, 0.7, 0.8)},
            },
            "rows": 4,
        }
    )
    structure, lpips = table.metrics
    assert (structure.name, structure.better, structure.rows) == ("structure_distance", "lower", 4)
    assert (structure.results.mean, structure.results.interval) == ("0.2", "0.1 to 0.3")
    assert (structure.content_copy.mean, structure.content_copy.interval) == ("0", "")
    assert structure.style_copy.mean == "0.75" and structure.plot is not None
    assert lpips.content_copy is None and lpips.plot is None, "nothing to compare with"
    assert list(table.models) == [("dino", "vit"), ("clip", "other")] and table.models_guided
    assert not table.notes and table.problem is None


@pytest.mark.parametrize(
    ("name", "way"),
    [("structure_distance", "lower"), ("truth_l1", "lower"), ("lpips", "lower"), ("FID", "lower")]
    + [("clip_score", "higher"), ("mask_iou", "higher"), ("truth_psnr", "higher"), ("x", "")],
)
def test_which_way_is_better(name: str, way: str) -> None:
    assert better(name) == way


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"metrics": [1], "baselines": 3, "sets": "x", "judging": [], "rows": "4"},
        {"metrics": {"a": None, "b": 3, "c": {"mean": "x"}, "d": {"mean": float("nan")}}},
    ],
)
def test_what_is_no_metric_is_left_out(values: dict[str, Any]) -> None:
    table = _table(values)
    assert table.metrics == [] and table.problem == "tells of no metric"


def test_parts_of_a_metric_may_be_missing() -> None:
    (metric,) = _table({"metrics": {"a": {"mean": 0.5}}, "baselines": {"style_copy": []}}).metrics
    assert (metric.results.mean, metric.results.interval, metric.rows) == ("0.5", "", None)


def test_what_a_reader_has_to_know_is_said() -> None:
    table = _table({"metrics": {"a": _estimate(1)}, "rows": 3, "unmeasured": 2}, rows=9)
    assert "tells of 3 rows, and the results hold 9" in table.notes[0]
    assert table.notes[1].startswith("2 rows could not be measured")


def test_distances_of_sets_stand_among_the_metrics() -> None:
    def distance(value: Any) -> dict[str, Any]:
        return {"mean_distance": {"value": value, "low": 1, "high": 3}, "pictures": 40}

    sets = {
        "results": distance(2.0) | {"class_mean_distance": {"value": None}},
        "source_copy": distance(5.0),
        "reference": "real.parquet",
        "reference_pictures": 90,
    }
    table = _table({"sets": sets, "judging": {"inception": "", "dino": "vit"}})
    (metric,) = table.metrics
    assert (metric.name, metric.better, metric.rows) == ("mean_distance", "lower", 40)
    assert metric.content_copy.mean == "5" and metric.style_copy is None
    assert table.sets == [("reference", "real.parquet"), ("reference_pictures", "90")]
    by_inception = _table({"sets": sets, "judging": {"inception": "file"}})
    assert [metric.name for metric in by_inception.metrics] == ["SFID"]


def test_a_run_that_was_not_evaluated_is_told_from_a_broken_file() -> None:
    assert make_table(Record("metrics.json", {}, MISSING), JOB, 4).is_missing
    broken = make_table(Record("metrics.json", {}, "is not readable JSON"), JOB, 4)
    assert not broken.is_missing and broken.problem == "is not readable JSON"
