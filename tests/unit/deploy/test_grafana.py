"""The dashboard and the alert rules ask only for what the job shows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dstc.worker.prometheus import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
EXPORTED = {name: metric for metric in METRICS for name in metric.exported}
GRID_WIDTH = 24


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "grafana" / "dstc.json").read_text()))


def dashboard_expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "dstc.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def alert_expressions() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def asked_for(expression: str) -> set[str]:
    return set(re.findall(r"ray_dstc_\w+", expression))


def labels_of(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, and the labels that its braces name."""
    for name, inside in re.findall(r"(ray_dstc_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *alert_expressions()])
def test_each_expression_asks_for_metrics_and_labels_that_exist(expression: str) -> None:
    assert asked_for(expression), "an expression without a metric of ours"
    assert asked_for(expression) <= set(EXPORTED)
    for name, labels in labels_of(expression):
        assert labels <= {"run_id", *EXPORTED[name].tags}
    tags = {tag for name in asked_for(expression) for tag in EXPORTED[name].tags}
    for clause in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(re.split(r",\s*", clause)) <= {"run_id", "le", *tags}
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize("expression", [*dashboard_expressions(), *alert_expressions()])
def test_counters_are_read_as_rates_and_gauges_are_not(expression: str) -> None:
    for name in asked_for(expression):
        before = re.findall(rf"(\w+)\({name}\b", expression)
        if EXPORTED[name].kind == "gauge":
            assert not {"rate", "increase"} & set(before)
        else:
            assert set(before) <= {"rate", "increase", "max_over_time"}
            assert len(before) == expression.count(name)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {EXPORTED[name].name for text in dashboard_expressions() for name in asked_for(text)}
    # How many shards leave actors says no more than how many are done.
    assert {metric.name for metric in METRICS} - shown == {"dstc_shards_ended"}


def test_every_expression_of_the_dashboard_is_of_the_run_that_was_chosen() -> None:
    for expression in dashboard_expressions():
        for name, labels in labels_of(expression):
            assert "run_id" in labels, f"{name} of all runs"
        assert expression.count('run_id="$run_id"') == len(list(labels_of(expression)))


def test_all_data_comes_from_the_data_source_that_was_chosen(dashboard: dict[str, Any]) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["run_id"]["datasource"] == chosen
    metric, label = re.fullmatch(
        r"label_values\((\w+), (\w+)\)", variables["run_id"]["query"]["query"]
    ).groups()  # type: ignore[union-attr]
    assert metric in EXPORTED and label == "run_id"
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen, panel["title"]
            assert panel["targets"], panel["title"]
            assert [target["datasource"] for target in panel["targets"]] == [chosen] * len(
                panel["targets"]
            )


def test_panels_lie_inside_the_grid_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(p["x"] >= 0 and p["w"] > 0 and p["x"] + p["w"] <= GRID_WIDTH for p in places)
    for one, other in itertools.combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_each_alert_says_of_which_run_it_is() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        assert "by (run_id)" in rule["expr"]
        assert "{{ $labels.run_id }}" in rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("warning", "critical")
