from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from dstc.worker.engine_thread import Engine, EngineThread
from dstc_engine.fake import FakeEngine
from dstc_engine.presets import TINY64
from dstc_engine.request import Translation, TranslationRequest

SLOTS = 3


def request(name: str, level: int = 0) -> TranslationRequest:
    content = np.full((64, 64, 3), level, np.uint8)
    return TranslationRequest(id=name, content=content, seed=1, prompt="x")


class FussyEngine(FakeEngine):
    """Raises while a row called `bad...` is in a slot; remembers who shared its slots."""

    companions: list[set[str]] = []

    def step(self) -> list[Translation]:
        ended = super().step()
        names = {r.id for r, _ in self._running} | {t.id for t in ended}
        self.companions.append(names)
        if any(name.startswith("bad") for name in names):
            raise RuntimeError("a bad row is in the batch")
        return ended


Start = Callable[..., EngineThread]


@pytest.fixture
def start() -> Iterator[Start]:
    threads = []

    def make(
        make_engine: Callable[[int], Engine] = lambda slots: FakeEngine(TINY64, slots),
    ) -> EngineThread:
        threads.append(EngineThread(make_engine, SLOTS))
        return threads[-1]

    yield make
    for thread in threads:
        thread.close()


def test_every_request_gets_its_own_translation(start: Start) -> None:
    engine = start()
    futures = [engine.submit(request(f"r{n}", n), 0) for n in range(20)]
    for number, future in enumerate(futures):
        translation = future.result(10)
        assert translation.id == f"r{number}"
        assert translation.image is not None
        assert (translation.image[1:] == 255 - number).all()


def test_rows_of_the_older_shard_go_first(start: Start) -> None:
    entered: list[str] = []
    held = threading.Event()

    def hold(slots: int) -> Engine:
        held.wait(10)
        return FakeEngine(TINY64, slots)

    engine = start(hold)
    blocker = [engine.submit(request(f"b{n}"), 0) for n in range(SLOTS)]
    futures = [
        engine.submit(request(name), order, on_start=lambda name=name: entered.append(name))
        for name, order in [("new1", 2), ("old1", 1), ("new2", 2), ("old2", 1)]
    ]
    held.set()
    for future in [*blocker, *futures]:
        future.result(10)
    assert entered == ["old1", "old2", "new1", "new2"]


def test_a_row_that_breaks_the_step_fails_alone(start: Start) -> None:
    FussyEngine.companions.clear()
    engine = start(lambda slots: FussyEngine(TINY64, slots))
    names = ["a", "bad", "b", "c", "d"]
    results = {
        name: future.result(10)
        for name, future in [(name, engine.submit(request(name), 0)) for name in names]
    }
    assert {name for name in names if results[name].status == "failed"} == {"bad"}
    assert results["bad"].reason == "engine_error"
    assert "a bad row is in the batch" in (results["bad"].error or "")
    assert FussyEngine.companions.count({"bad"}) == 1


def test_an_engine_that_cannot_be_built_fails_rows_and_hangs_nobody(start: Start) -> None:
    def broken(slots: int) -> Engine:
        raise MemoryError("no room")

    engine = start(broken)
    futures = [engine.submit(request(f"r{n}"), 0) for n in range(4)]
    assert {future.result(10).reason for future in futures} == {"out_of_memory"}


def test_alone_means_alone(start: Start) -> None:
    FussyEngine.companions.clear()
    engine = start(lambda slots: FussyEngine(TINY64, slots))
    futures = [engine.submit(request(f"r{n}"), 0, alone=n == 4) for n in range(9)]
    for future in futures:
        assert future.result(10).status == "done"
    assert all(names == {"r4"} for names in FussyEngine.companions if "r4" in names)


def test_equal_ids_in_flight_both_end(start: Start) -> None:
    engine = start()
    futures = [engine.submit(request("same", 7), order) for order in (0, 1)]
    images = [future.result(10).image for future in futures]
    assert images[0] is not None and np.array_equal(images[0], images[1])


def test_samples_of_a_row_get_their_own_images(start: Start) -> None:
    # They have one id; the later seeds end first where slots are few.
    engine = start()
    row = request("same")
    seeds = [5, 3, 8, 2, 7]
    futures = [engine.submit(dataclasses.replace(row, seed=seed), 0) for seed in seeds]
    for seed, future in zip(seeds, futures, strict=True):
        translation = future.result(10)
        assert (translation.id, translation.seed) == ("same", seed)
        assert translation.image is not None and translation.image[0, 0, 0] == seed


def test_closing_frees_those_who_wait(start: Start) -> None:
    held = threading.Event()

    def hold(slots: int) -> Engine:
        held.wait(10)
        return FakeEngine(TINY64, slots)

    engine = start(hold)
    future = engine.submit(request("a"), 0)
    threading.Timer(0.1, held.set).start()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        future.result(10)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(request("b"), 0)


def test_occupancy_is_the_share_of_busy_slots(start: Start) -> None:
    engine = start()
    before = engine.occupancy
    engine.submit(request("a"), 0).result(10)
    assert engine.occupancy.since(before) == pytest.approx(1 / SLOTS)


def test_output_counts_steps_within_rows_and_samples_as_parts_of_theirs(start: Start) -> None:
    seen: list[float] = []

    class Watched(FakeEngine):
        def step(self) -> list[Translation]:
            seen.append(engine.output.rows)
            return super().step()

    engine = start(lambda slots: Watched(TINY64, slots))
    assert (engine.output.rows, engine.output.seconds) == (0, 0)
    engine.submit(request("row"), 0, rows=0.5).result(10)
    engine.submit(request("row"), 0, rows=0.5).result(10)
    assert seen == pytest.approx([step / 10 for step in range(10)])
    assert (engine.output.rows, engine.output.first) == (1, pytest.approx(0.1))
    assert engine.output.seconds > 0


def test_a_step_that_raises_takes_back_what_was_underway(start: Start) -> None:
    seen: list[float] = []

    class BreakingOnce(FakeEngine):
        def step(self) -> list[Translation]:
            seen.append(engine.output.rows)
            if len(seen) == 4:
                raise OutOfMemoryError("no room")
            return super().step()

    engine = start(lambda slots: BreakingOnce(TINY64, slots))
    assert engine.submit(request("a"), 0).result(10).status == "done"
    assert seen == pytest.approx([0, 0.2, 0.4, 0.6, 0, 0.2, 0.4, 0.6, 0.8])
    assert engine.output.rows == 1


def test_an_engine_that_says_no_steps_is_counted_by_rows(start: Start) -> None:
    class Silent:
        def __init__(self, slots: int) -> None:
            inner = FakeEngine(TINY64, slots)
            self.add, self.step, self.is_device_dead = inner.add, inner.step, inner.is_device_dead
            self.is_finished, self.free_slots = False, slots

    engine = start(Silent)
    engine.submit(request("a"), 0).result(10)
    assert (engine.output.rows, engine.output.first) == (1, 0)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("no room"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_when_memory_ends_slots_are_halved_and_rows_run_again(
    error: Exception, start: Start
) -> None:
    made: list[int] = []

    class Small(FakeEngine):
        def step(self) -> list[Translation]:
            if self.slots > 1:
                raise error
            return super().step()

    def make(slots: int) -> Engine:
        made.append(slots)
        return Small(TINY64, slots)

    engine = start(make)
    futures = [engine.submit(request(f"r{n}", n), 0) for n in range(7)]
    translations = [future.result(10) for future in futures]
    assert [t.status for t in translations] == ["done"] * 7
    assert {t.slots for t in translations} == {1} and engine.slots == 1
    assert made == [SLOTS, 1]
