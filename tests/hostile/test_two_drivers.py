"""Two drivers on one folder: leases, PID namespaces, a frozen driver, a loser's late write.

Without Ray. Each case runs in a folder of this machine and in a bucket of a real S3 server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dstc.translate
from dstc.driver import lease as lease_module
from dstc.driver.lease import EXPIRES_AFTER_S, Lease
from dstc.errors import JobError, OutputError, RunFolderError
from dstc.planning.plan import make_plan
from dstc.planning.run_identity import open_or_create
from dstc.planning.settings import make_settings
from dstc.store import conditional, process, storage
from dstc.store.conditional import Versioned
from dstc.store.fencing import epoch_of
from dstc.store.results import DONE, Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder
from tests.hostile.case import Case
from tests.lease_clock import Clock
from tests.s3_server import S3

pytest_plugins = ["tests.s3_server"]

NO_PROCESS = 2**22 + 1  # above the highest number that Linux gives


@dataclass
class Place:
    """A folder for a run. `patch` is pytest's. `pause`: stops its storage, and lets it go on."""

    uri: str
    patch: pytest.MonkeyPatch
    pause: Callable[[bool], None]

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.uri)

    def lease(self) -> Lease:
        return Lease(self.run.lease, "OUTPUT")

    def record(self) -> dict[str, Any]:
        return dict(json.loads(storage.read_bytes(self.run.lease)))

    def rewrite(self, **values: Any) -> None:
        """The lease as another holder would have written it; None takes a value out."""
        record = {**self.record(), **values}
        text = json.dumps({name: value for name, value in record.items() if value is not None})
        storage.write_bytes(self.run.lease, text.encode())


@pytest.fixture(params=["local", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    if request.param == "local":
        # What stands still here is the write itself.
        goes_on = threading.Event()
        goes_on.set()
        swap = conditional.swap

        def held(*arguments: Any) -> str | None:
            goes_on.wait(30)
            return swap(*arguments)

        monkeypatch.setattr(conditional, "swap", held)
        pause = lambda stops: goes_on.clear() if stops else goes_on.set()  # noqa: E731
        yield Place(str(tmp_path / "run"), monkeypatch, pause)
    else:
        s3: S3 = request.getfixturevalue("s3")
        pause = lambda stops: s3.server.pause() if stops else s3.server.resume()  # noqa: E731
        yield Place(s3.uri(f"runs/{tmp_path.name}"), monkeypatch, pause)


def taken(place: Place) -> Lease:
    return Clock().take(place.lease())


def rows_of(text: str) -> pa.Table:
    rows = pa.table({"id": ["a", "b"], "content": ["a.png", "b.png"]})
    return result_table(rows, [Outcome(DONE, image=text), Outcome(DONE, image=text)])


def part_of(place: Place) -> bytes:
    return storage.read_bytes(place.run.part(0))


# -- who is dead -----------------------------------------------------------------------------------


def other_namespace_alive(place: Place) -> None:
    first = taken(place)
    # Its number is that of no process here, or of one that started at another time.
    elsewhere = {"namespace": 4026532999, "pid": NO_PROCESS, "started": 1}
    place.rewrite(**elsewhere)

    def renew() -> None:
        place.rewrite(**elsewhere, renewals=place.record()["renewals"] + 1)

    clock = Clock(meanwhile=renew)
    with pytest.raises(RunFolderError, match=f"process {NO_PROCESS}.* is at work on it"):
        clock.take(place.lease())
    assert place.record()["owner"] == first._owner


def other_namespace_silent(place: Place) -> None:
    taken(place)
    place.rewrite(namespace=4026532999, pid=NO_PROCESS, started=1)
    clock = Clock()
    second = clock.take(place.lease())
    assert clock.now >= EXPIRES_AFTER_S and second.is_ours() and second.epoch == 2


def same_namespace_dead(place: Place) -> None:
    taken(place)
    place.rewrite(pid=NO_PROCESS, started=1)
    clock = Clock()
    assert clock.take(place.lease()).is_ours() and clock.now < 5


def number_used_again(place: Place) -> None:
    taken(place)
    place.rewrite(started=place.record()["started"] + 1)
    clock = Clock()
    assert clock.take(place.lease()).is_ours() and clock.now < 5


def other_boot(place: Place) -> None:
    taken(place)
    place.rewrite(boot="00000000-0000-0000-0000-000000000000", pid=NO_PROCESS, started=1)
    clock = Clock()
    assert clock.take(place.lease()).is_ours() and clock.now >= EXPIRES_AFTER_S


def record_of_before(place: Place) -> None:
    """No namespace and no epoch: nothing tells that its number is one of ours."""
    taken(place)
    place.rewrite(
        namespace=None, epoch=None, expires_after_s=None, pid=NO_PROCESS, started=1, renewals=7
    )
    clock = Clock()
    second = clock.take(place.lease())
    assert 35 <= clock.now < 40 and second.is_ours() and second.epoch == 1


def proc_of_the_host(place: Place) -> None:
    taken(place)
    place.patch.setattr(process, "namespace", lambda: None)
    place.rewrite(pid=NO_PROCESS, started=1)
    clock = Clock()
    assert clock.take(place.lease()).is_ours() and clock.now >= EXPIRES_AFTER_S


# -- compare-and-swap ------------------------------------------------------------------------------


def _winner(place: Place, drivers: int) -> Lease:
    leases = [place.lease() for _ in range(drivers)]
    line = threading.Barrier(drivers, timeout=30)
    ends: list[str] = []

    def take(lease: Lease) -> None:
        line.wait()
        try:
            lease.take(sleep=lambda seconds: None)
        except RunFolderError as error:
            assert "another driver" in str(error)
            ends.append(str(error))

    # Who finds the lease of a living driver watches it, which takes time; nobody renews here.
    place.patch.setattr(lease_module, "EXPIRES_AFTER_S", 0.0)
    with ThreadPoolExecutor(drivers) as pool:
        list(pool.map(take, leases))
    owner = place.record()["owner"]
    (winner,) = [lease for lease in leases if lease._owner == owner]
    assert len(ends) == drivers - 1
    return winner


def all_start_at_once(place: Place) -> None:
    # Each finds the folder free, whatever the others have done since.
    read = conditional.read
    looked = threading.local()

    def free_at_first(uri: str, *arguments: Any) -> Versioned | None:
        if not hasattr(looked, "once"):
            looked.once = True
            return None
        return read(uri, *arguments)

    place.patch.setattr(conditional, "read", free_at_first)
    assert _winner(place, 6).epoch == 1


def all_take_over_at_once(place: Place) -> None:
    taken(place)
    place.rewrite(pid=NO_PROCESS, started=1)
    read, line = conditional.read, threading.Barrier(6, timeout=30)
    looked = threading.local()

    def together(uri: str, *arguments: Any) -> Versioned | None:
        found = read(uri, *arguments)
        if not hasattr(looked, "once"):
            looked.once = True
            line.wait()  # all have read the dead driver's lease before any writes
        return found

    place.patch.setattr(conditional, "read", together)
    assert _winner(place, 6).epoch == 2


def renewal_after_a_takeover(place: Place) -> None:
    first = taken(place)
    place.rewrite(host="far-away")
    second = taken(place)
    assert not first.renew() and first.is_lost and "has taken over" in first.why_lost
    assert second.is_ours() and second.renew()


def release_after_a_takeover(place: Place) -> None:
    first = taken(place)
    looked = Versioned(b"", first._version)
    place.rewrite(host="far-away")
    second = taken(place)
    first.release()
    conditional.remove(place.run.lease, looked.version)  # its removal comes late
    assert second.is_ours()


def answer_lost(place: Place) -> None:
    lease = taken(place)
    swap = conditional.swap

    def lose(*arguments: Any) -> str | None:
        swap(*arguments)
        raise TimeoutError("no answer")

    with place.patch.context() as patch:
        patch.setattr(conditional, "swap", lose)
        with pytest.raises(OSError, match="no answer"):
            lease.renew()
    assert lease.renew() and lease.is_ours() and not lease.is_lost


# -- self-fencing ----------------------------------------------------------------------------------


def frozen_and_nobody_came(place: Place) -> None:
    now = 100.0
    lease = replace(place.lease(), now=lambda: now)
    Clock().take(lease)
    before = place.record()
    now += EXPIRES_AFTER_S  # this process stood still
    assert not lease.renew() and lease.is_lost
    assert "was not renewed for 90 s" in lease.why_lost
    assert place.record() == before, "it is too late to renew: another may be about to take over"


def frozen_while_its_threads_run(place: Place) -> None:
    now = 100.0
    lease, lost = replace(place.lease(), now=lambda: now), threading.Event()
    Clock().take(lease)
    with lease.kept(on_lost=lost.set):
        assert not lost.wait(0.7)
        now += EXPIRES_AFTER_S * 0.8
        assert lost.wait(5) and lease.is_lost


def storage_stands_still(place: Place) -> None:
    place.patch.setattr(lease_module, "EXPIRES_AFTER_S", 6.0)
    place.patch.setattr(lease_module, "RENEW_EVERY_S", 0.2)
    lease, calls = taken(place), list[float]()
    with lease.kept(on_lost=lambda: calls.append(time.monotonic())):
        time.sleep(0.5)
        place.pause(True)
        since = time.monotonic()
        try:
            while not calls and time.monotonic() < since + 20:
                time.sleep(0.05)
        finally:
            place.pause(False)
        assert calls and calls[0] - since < 6.0, "before anybody may take over"
        assert "was not renewed" in lease.why_lost
    time.sleep(0.5)
    assert len(calls) == 1


# -- the loser's late writes -----------------------------------------------------------------------


def late_part(place: Place) -> None:
    write_part(place.run, 0, rows_of("winner"), epoch=2)
    before = part_of(place)
    with pytest.raises(OutputError, match=r"part-00000.*taken over this run \(epoch 2; here 1\)"):
        write_part(place.run, 0, rows_of("loser"), epoch=1)
    assert part_of(place) == before and epoch_of(before) == 2


def late_part_between_look_and_write(place: Place) -> None:
    write_part(place.run, 0, rows_of("earlier"), epoch=1)
    _write_between(place)


def late_part_where_there_was_none(place: Place) -> None:
    _write_between(place)


def _write_between(place: Place) -> None:
    read, was_there = conditional.read, list[bool]()

    def then_the_winner_writes(uri: str, *arguments: Any) -> Versioned | None:
        found = read(uri, *arguments)
        if not was_there:
            was_there.append(True)
            write_part(place.run, 0, rows_of("winner"), epoch=2)
        return found

    place.patch.setattr(conditional, "read", then_the_winner_writes)
    with pytest.raises(OutputError, match="taken over this run"):
        write_part(place.run, 0, rows_of("loser"), epoch=1)
    assert epoch_of(part_of(place)) == 2


def parts_of_before(place: Place) -> None:
    write_part(place.run, 0, rows_of("before"))
    write_part(place.run, 0, rows_of("now"), epoch=1)
    assert epoch_of(part_of(place)) == 1


def cut_part(place: Place) -> None:
    storage.write_bytes(place.run.part(0), b"PAR1 and half of it")
    write_part(place.run, 0, rows_of("now"), epoch=1)
    assert epoch_of(part_of(place)) == 1


TRIALS: dict[Callable[[Place], None], tuple[str, str]] = {
    other_namespace_alive: (
        "A living driver in another PID namespace of this machine, whose number is free here",
        "refused: exit 2",
    ),
    other_namespace_silent: ("The same, but silent: followed when its lease expires", "done"),
    same_namespace_dead: ("A dead driver of this PID namespace: followed at once", "done"),
    number_used_again: ("Its number belongs to a younger process by now", "done"),
    other_boot: ("A driver from before the machine was started again: its lease expires", "done"),
    record_of_before: ("The lease of a driver of the version before expires", "done"),
    proc_of_the_host: ("A container that sees the /proc of its host judges no number", "done"),
    all_start_at_once: ("Six drivers start at once on a free folder: one works", "refused: exit 2"),
    all_take_over_at_once: ("Six drivers follow a dead one: one works", "refused: exit 2"),
    renewal_after_a_takeover: ("A driver that was away renews, and learns that it lost", "kept"),
    release_after_a_takeover: ("It gives back a lease that is another's by now", "kept"),
    answer_lost: ("A renewal happens, and its answer is lost", "done"),
    frozen_and_nobody_came: ("A frozen driver wakes after its lease expired, and ends", "kept"),
    frozen_while_its_threads_run: ("A driver that is late ends before it is followed", "kept"),
    storage_stands_still: ("Storage does not answer a renewal: the driver ends in time", "kept"),
    late_part: ("The loser's part comes after the winner's", "kept"),
    late_part_between_look_and_write: (
        "The winner replaces a part between the loser's look and its write",
        "kept",
    ),
    late_part_where_there_was_none: (
        "The winner writes a new part between the loser's look and its write",
        "kept",
    ),
    parts_of_before: ("A part of the version before, without an epoch, is replaced", "done"),
    cut_part: ("Half a part is replaced", "done"),
}
CASES = [
    Case("Two drivers", trial.__name__, what, outcome) for trial, (what, outcome) in TRIALS.items()
]


@pytest.mark.parametrize("trial", TRIALS, ids=[case.name for case in CASES])
def test_two_drivers(trial: Callable[[Place], None], place: Place) -> None:
    trial(place)


def test_a_storage_without_conditions_is_found_out() -> None:
    lease = Lease("memory://two/lease.json", "OUTPUT")
    Clock().take(lease)
    assert lease.is_ours() and not lease.has_conditions
    assert lease.renew()
    lease.release()
    assert conditional.read("memory://two/lease.json") is None


def test_a_server_that_ignores_conditions_is_found_out(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignore(filesystem: Any, path: str, data: bytes, expected: str | None) -> str:
        bucket, key, _ = filesystem.split_path(path)
        return str(filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=data)["ETag"])

    monkeypatch.setitem(conditional._PUTS, "s3", ignore)
    lease = Lease(s3.uri("ignores/lease.json"), "OUTPUT")
    Clock().take(lease)
    assert lease.is_ours() and not lease.has_conditions


def test_a_bucket_that_is_not_there_is_no_other_driver(s3: S3) -> None:
    with pytest.raises(OSError, match="bucket"):
        Clock().take(Lease("s3://no-such-bucket-here/run/lease.json", "OUTPUT"))


def test_the_driver_ends_with_its_reason_and_what_is_done_is_kept(
    tmp_path: Path, good_rows: Any, write_manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    settings = make_settings(
        manifest=str(write_manifest(good_rows(4))), output=str(output), engine="fake", slots=2
    )

    def pipeline(plan: Any, lease: Lease, interrupt: Any, quiet: bool) -> None:
        write_part(plan.job.run, 0, rows_of("done"), lease.epoch)
        asked = lease.now()
        lease.now = lambda: asked + EXPIRES_AFTER_S
        time.sleep(20)

    monkeypatch.setattr(dstc.translate, "_run_pipeline", pipeline)
    with pytest.raises(JobError, match="was not renewed for 90 s.*what is done is kept"):
        dstc.translate.run(settings)
    assert (output / "results" / "part-00000.parquet").exists()
    assert not (output / "lease.json").exists(), "nobody else took it, so the next need not wait"
    assert json.loads((output / "job.json").read_text())["epoch"] == 1


def test_epochs_only_go_up(tmp_path: Path, good_rows: Any, write_manifest: Any) -> None:
    output = tmp_path / "run"
    settings = make_settings(
        manifest=str(write_manifest(good_rows(4))), output=str(output), engine="fake", slots=2
    )
    job = make_plan(settings).job
    open_or_create(job)  # as a version without epochs would
    for epoch in (1, 2):
        lease = Clock().take(Lease(job.run.lease, "OUTPUT"))
        assert lease.epoch == epoch
        open_or_create(job, lease.epoch)
        lease.release()
    with pytest.raises(RunFolderError, match=r"another driver has just taken it \(epoch 2; here 1"):
        open_or_create(job, 1)
    assert open_or_create(job).record["epoch"] == 2, "who only looks changes nothing"
