"""Storage goes away, stalls, loses connections and throttles while a job runs from and to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dstc.planning.settings import Settings, make_settings
from dstc.translate import OK, run
from dstc.verify import verify
from tests.fault_proxy import FaultProxy, Request
from tests.outcomes import outcome
from tests.ray_session import RAY_WARNINGS
from tests.s3_server import S3, environment

pytest_plugins = ["tests.s3_server"]
# In this order: Ray's processes are to find their way through the proxy.
pytestmark = [pytest.mark.usefixtures("s3", "proxy", "ray_session"), RAY_WARNINGS]

ROWS, ROWS_PER_SHARD = 40, 4
SHARDS = ROWS // ROWS_PER_SHARD
# 5 steps in 3 slots: 40 rows take 7 s, so a fault that begins with the first part meets most.
STEP_SECONDS = 0.1


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[FaultProxy]:
    """Between the jobs of this module and the server; the tests' own look goes past it."""
    with (
        FaultProxy(s3.server.port) as proxy,
        environment({**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        yield proxy


@pytest.fixture(scope="module")
def manifest(s3: S3, images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    s3.put_folder(images, "photos")
    # An image of its own for each row: what rows share is asked for once, and faults want many.
    for number in range(ROWS):
        s3.put(f"photos/{number}.png", (images / f"p{number % 6}.png").read_bytes())
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    columns = {
        "id": [f"row/{number:03d}" for number in range(ROWS)],
        "content": [f"photos/{number}.png" for number in range(ROWS)],
        "style": [
            f"photos/p{number % 5}.png" if number % 4 == 0 else None for number in range(ROWS)
        ],
        "prompt": [f"text {number}" for number in range(ROWS)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=9)
    return s3.put("manifest.parquet", path.read_bytes())


def settings_of(manifest: str, output: str, fake_step_seconds: float = STEP_SECONDS) -> Settings:
    return make_settings(
        manifest=manifest,
        output=output,
        engine="fake",
        rows_per_shard=ROWS_PER_SHARD,
        slots=3,
        fake_step_seconds=fake_step_seconds,
    )


@pytest.fixture(scope="module")
def calm(
    s3: S3,
    proxy: FaultProxy,
    manifest: str,
    ray_session: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[tuple[list[str], dict[str, bytes]], list[Request], int]:
    """What a run without faults leaves, what it asked of storage, and how much at once."""
    proxy.forget()
    assert run(settings_of(manifest, s3.uri("calm"))) == OK
    asked, most = proxy.requests, proxy.most_at_once
    found = outcome(s3.download("calm", tmp_path_factory.mktemp("calm")))
    assert len(found[0]) == len(found[1]) == ROWS
    return found, asked, most


@pytest.fixture
def quiet(proxy: FaultProxy, s3: S3) -> Iterator[FaultProxy]:
    """The proxy, that counts from here on, and does no harm once the test has ended."""
    proxy.pass_through()
    proxy.forget()
    yield proxy
    proxy.pass_through()


def has_written(proxy: FaultProxy, name: str) -> bool:
    return any(
        request.method == "PUT" and name in request.path and request.status == 200
        for request in proxy.requests
    )


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def run_through(fault: Callable[[], None], settings: Settings, proxy: FaultProxy) -> int:
    """Runs the job, and the fault from the moment its first part is written."""
    trouble: list[BaseException] = []

    def befall() -> None:
        try:
            wait_for(lambda: has_written(proxy, "/results/part-"))
            fault()
            assert not has_written(proxy, "/summary.json"), "the run ended without the fault"
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=befall)
    thread.start()
    try:
        code = run(settings)
    finally:
        thread.join()
    assert not trouble, trouble
    return code


def test_a_calm_run_asks_storage_for_little(calm: Any) -> None:
    _, asked, most = calm
    images_in = [r for r in asked if "/photos/" in r.path]
    # Each content and each of the five styles once, and each image that is written: no HEAD.
    assert [r.method for r in images_in] == ["GET"] * (ROWS + 5)
    assert len({r.path for r in images_in}) == ROWS + 5
    written = [r.method for r in asked if "/images/" in r.path and "README" not in r.path]
    assert written == ["PUT"] * ROWS
    parts = [r for r in asked if "/results/part-" in r.path]
    assert sum(r.method == "PUT" for r in parts) == SHARDS
    # For a shard: is there an earlier part, an earlier attempt; a note on this one; a look before
    # the part is written, since a storage may ignore its condition; part and stats.
    shards = [r for r in asked if "/stats/0" in r.path or "/results/part-" in r.path]
    assert len(shards) <= 6 * SHARDS
    # The driver looks around at its start and counts parts at its end, however many rows there are.
    lists = [r for r in asked if "list-type" in r.path]
    assert len(lists) <= 15, [str(r) for r in lists]
    # 8 threads fetch and 4 write in the one actor; two calls of it, the sink and the driver.
    assert most <= 20


def test_storage_that_refuses_for_a_while_costs_nothing(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path
) -> None:
    def refuse() -> None:
        quiet.refuse()
        time.sleep(8)
        quiet.pass_through()

    assert run_through(refuse, settings_of(manifest, s3.uri("refused")), quiet) == OK
    assert quiet.refused > 0
    assert outcome(s3.download("refused", tmp_path)) == calm[0]


def test_a_server_that_freezes_for_half_a_minute_costs_nothing(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path
) -> None:
    def freeze() -> None:
        s3.server.pause()
        try:
            time.sleep(30)
        finally:
            s3.server.resume()

    assert run_through(freeze, settings_of(manifest, s3.uri("frozen")), quiet) == OK
    assert outcome(s3.download("frozen", tmp_path)) == calm[0]


def test_connections_lost_in_the_midst_of_bodies_cost_nothing(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path
) -> None:
    quiet.drop(0.15)
    assert run(settings_of(manifest, s3.uri("dropped"))) == OK
    lost = sum(request.status == 0 for request in quiet.requests)
    assert lost > len(quiet.requests) // 20
    assert outcome(s3.download("dropped", tmp_path)) == calm[0]


def test_throttling_costs_nothing(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path
) -> None:
    def throttle() -> None:
        quiet.throttle(0.5)
        time.sleep(6)
        quiet.pass_through()

    assert run_through(throttle, settings_of(manifest, s3.uri("throttled")), quiet) == OK
    assert sum(request.status == 503 for request in quiet.requests) > 5
    assert outcome(s3.download("throttled", tmp_path)) == calm[0]


def test_a_server_that_is_started_again_costs_nothing(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path
) -> None:
    def restart() -> None:
        s3.server.restart(pause_s=1)

    assert run_through(restart, settings_of(manifest, s3.uri("restarted")), quiet) == OK
    assert sum(request.status == 0 for request in quiet.requests) > 0
    assert outcome(s3.download("restarted", tmp_path)) == calm[0]


@contextlib.contextmanager
def killed_at(quiet: FaultProxy, request: str, command: list[str], said: Path) -> Iterator[None]:
    """A driver whose request is held; it is killed at the end of the block, the request still held.

    Args:
        request: pattern of it. said: where the driver's stderr goes.
    """
    quiet.hold(request)
    with said.open("wb") as stderr:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_for(lambda: quiet.held or driver.poll() is not None)
        assert driver.poll() is None, said.read_text()
        yield
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()


@pytest.mark.parametrize(
    ("at", "parts"),
    [
        ("/images/", 0),  # before the first image
        ("/results/part-00003", 3),  # images written, their part not
        ("/summary.json", SHARDS),  # all parts written
    ],
)
def test_a_driver_killed_between_two_writes_is_continued_by_the_same_command(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path, at: str, parts: int
) -> None:
    place = f"killed-{parts}"
    command = [sys.executable, "-m", "dstc.cli", "translate", manifest, s3.uri(place)]
    command += ["--engine", "fake", "--rows-per-shard", str(ROWS_PER_SHARD), "--slots", "3"]
    said = tmp_path / "stderr.txt"
    with killed_at(quiet, rf"^PUT /[^?]*/{place}{at}", command, said):
        # Shards end in any order; those written before the one that is held are to stay.
        wait_for(lambda: len(s3.list(f"{place}/results")) >= parts)
    assert at.lstrip("/") not in "".join(s3.list(place))
    quiet.release()
    kept = s3.modified(f"{place}/results")
    assert len(kept) >= parts

    if parts == 3:
        again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert again.returncode == OK, again.stderr
    else:
        # The same settings, on the Ray that runs here: starting one more takes longer than the run.
        assert run(settings_of(manifest, s3.uri(place), fake_step_seconds=0.0)) == OK
    assert outcome(s3.download(place, tmp_path / "run")) == calm[0]
    after = s3.modified(f"{place}/results")
    assert {name: after[name] for name in kept} == kept, "a part that is written stays as it is"
    # Rows that were kept aside do not outlive the run.
    left = {name for name in s3.list(place) if name.endswith(".arrow")}
    assert left == {"stats/ledger.arrow"}


def test_an_append_whose_driver_is_killed_goes_on(
    s3: S3, quiet: FaultProxy, manifest: str, calm: Any, tmp_path: Path
) -> None:
    rows = pq.read_table(pa.BufferReader(s3.get("manifest.parquet")))
    old = [row for row in range(ROWS) if row % 3]

    def put(table: pa.Table) -> str:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=9)
        return s3.put("growing.parquet", sink.getvalue().to_pybytes())

    uri, output = put(rows.take(old)), s3.uri("append")
    assert run(settings_of(uri, output, fake_step_seconds=0.0)) == OK
    before = {**s3.modified("append/results"), **s3.modified("append/images")}
    put(rows)  # every third row comes in between
    command = [sys.executable, "-m", "dstc.cli", "translate", uri, output, "--append"]
    command += ["--engine", "fake", "--rows-per-shard", str(ROWS_PER_SHARD), "--slots", "3"]
    said = tmp_path / "stderr.txt"
    with killed_at(quiet, r"^PUT /[^?]*/append/results/part-00009", command, said):
        pass
    assert "append: 14 rows without a result; 26 have one and stay" in said.read_text()
    quiet.release()
    assert run(settings_of(uri, output, fake_step_seconds=0.0)) == OK
    after = {**s3.modified("append/results"), **s3.modified("append/images")}
    assert {name: after[name] for name in before} == before
    results, images = outcome(s3.download("append", tmp_path / "run"))
    assert (sorted(results), images) == (sorted(calm[0][0]), calm[0][1])
    assert verify(output).is_whole
