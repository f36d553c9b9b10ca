"""What a scrape of Ray's metrics port says of a job that ran."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray

from dstc.planning.settings import make_settings
from dstc.ray_session import start_ray
from dstc.translate import OK, run
from dstc.worker.prometheus import METRICS
from tests.ray_session import RAY_WARNINGS, end_ray, result_rows

pytestmark = RAY_WARNINGS

Columns = Callable[[int], dict[str, list[Any]]]

SERIES = re.compile(r"^(ray_dstc_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# What Ray adds to every series. WorkerId is one for each process, so for each actor start.
RAY_LABELS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}


class Series(NamedTuple):
    """One line of a scrape."""

    name: str
    labels: dict[str, str]
    value: float


@pytest.fixture(scope="module")
def metrics_url(no_ray: None) -> Iterator[str]:
    """A Ray that reports every second instead of every ten."""
    try:
        start_ray(None, num_cpus=2, _system_config={"metrics_report_interval_ms": 1000})
        (node,) = ray.nodes()  # type: ignore[no-untyped-call]
        yield f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    finally:
        end_ray()


class Scraper:
    """Scrapes as Prometheus does, and keeps the last value of each series: gauges of a run that has
    ended are gone after some seconds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: dict[tuple[str, str], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._scrape_on, daemon=True)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _scrape_on(self) -> None:
        while not self._stop.wait(0.5):
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                text = answer.read().decode()
            found = {(name, labels): float(n) for name, labels, n in SERIES.findall(text)}
            self._seen = {**self._seen, **found}

    def wait_for(self, is_there: Callable[[list[Series]], bool]) -> list[Series]:
        """What was scraped, once it is as it should be; after a minute, as it is."""
        deadline = time.monotonic() + 60
        while True:
            seen = [Series(name, dict(LABEL.findall(x)), n) for (name, x), n in self._seen.items()]
            if is_there(seen) or time.monotonic() > deadline:
                return seen
            time.sleep(0.2)


def total(series: list[Series], name: str, **labels: str) -> float:
    return sum(s.value for s in series if s.name == name and labels.items() <= s.labels.items())


def test_a_scrape_says_what_became_of_the_rows(
    metrics_url: str, write_manifest: Callable[..., Path], good_rows: Columns, tmp_path: Path
) -> None:
    rows, broken, gone = 40, 3, 2
    columns = good_rows(rows)
    folder = Path(columns["content"][0]).parent
    for number in range(broken):
        columns["content"][number * 7] = str(folder / "broken.png")
    for number in range(gone):
        columns["content"][number * 7 + 1] = str(folder / "gone.png")
    settings = make_settings(
        manifest=str(write_manifest(columns)),
        output=str(tmp_path / "run"),
        engine="fake",
        rows_per_shard=4,
        slots=3,
        actors=2,
        max_rejected=0.5,
    )
    with Scraper(metrics_url) as scraper:
        assert run(settings) == OK
        results = result_rows(tmp_path / "run")
        done = [row for row in results if row["status"] == "done"]
        assert len(done) == rows - broken - gone

        # Numbers come in the second after they were told.
        def is_all_counted(seen: list[Series]) -> bool:
            return (
                total(seen, "ray_dstc_rows_ended_total") == rows
                and total(seen, "ray_dstc_shards_ended_total") == rows / 4
                and total(seen, "ray_dstc_queue_wait_seconds_count") == len(done)
                and total(seen, "ray_dstc_run_rows_ended") == rows
                and total(seen, "ray_dstc_run_shards_done") == rows / 4
            )

        found = scraper.wait_for(is_all_counted)

    def ended(**labels: str) -> float:
        return total(found, "ray_dstc_rows_ended_total", **labels)

    assert ended() == rows
    assert ended(status="done", reason="none") == len(done)
    assert ended(status="rejected", reason="unreadable_picture") == broken
    assert ended(status="rejected", reason="missing_picture") == gone
    assert total(found, "ray_dstc_shards_ended_total") == 10
    assert total(found, "ray_dstc_queue_wait_seconds_bucket", le="+Inf") == len(done)
    steps = total(found, "ray_dstc_steps_total")
    assert total(found, "ray_dstc_slot_steps_total") == 3 * steps
    # Each row held a slot for as many steps as its result row says.
    busy = total(found, "ray_dstc_busy_slot_steps_total")
    assert busy == sum(row["steps"] for row in done)
    assert total(found, "ray_dstc_step_seconds_total") > 0
    phases = {s.labels["phase"] for s in found if s.name == "ray_dstc_phase_seconds_total"}
    assert phases == {"fetch", "queue", "translate", "write"}
    images = [tmp_path / "run" / row["image"] for row in done]
    written = total(found, "ray_dstc_storage_bytes_total", direction="written")
    assert written >= sum(path.stat().st_size for path in images)
    read = total(found, "ray_dstc_storage_bytes_total", direction="read")
    # Rows share contents, and each actor fetches one once.
    assert read >= sum(Path(uri).stat().st_size for uri in {row["content"] for row in done})

    def gauge(name: str) -> float:
        (value,) = {s.value for s in found if s.name == f"ray_dstc_run_{name}"}
        return value

    assert (gauge("rows"), gauge("rows_ended")) == (rows, rows)
    assert (gauge("shards"), gauge("shards_done")) == (10, 10)
    assert (gauge("actors_wanted"), gauge("actors_at_most")) == (2, 2)
    assert gauge("actor_starts") == 2

    # Names and tags: those of the list, and nothing that grows with the rows.
    tags = {name: {"run_id", *metric.tags} for metric in METRICS for name in metric.exported}
    run_ids = {s.labels["run_id"] for s in found}
    assert len(run_ids) == 1
    for series in found:
        ours = {k for k in series.labels if k not in RAY_LABELS and not k.startswith("otel_")}
        assert ours - {"le"} == tags[series.name]
        for value in series.labels.values():
            assert "row/" not in value and str(folder) not in value and ".png" not in value
    never = {"engine_rebuilds", "row_restarts", "storage_retries"}
    expected = {
        name
        for metric in METRICS
        for name in metric.exported
        if metric.name.removeprefix("dstc_") not in never
    }
    assert {series.name for series in found} == expected
