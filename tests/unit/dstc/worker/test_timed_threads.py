from __future__ import annotations

import threading
import time

import pytest

from dstc.worker.timed_threads import Begin, Overdue, TimedThreads

DEADLINE_S = 0.1


def test_a_call_gives_its_result_or_whatever_it_raises() -> None:
    threads = TimedThreads(2, DEADLINE_S, "test")

    def exits(begin: Begin) -> None:
        raise SystemExit(3)

    futures = [threads.submit(exits), threads.submit(exits), threads.run_now(exits)]
    for future in futures:
        with pytest.raises(SystemExit):
            future.result(5)
    assert threads.submit(lambda begin: 7).result(5) == 7, "the threads live on"
    threads.shutdown()


def test_a_stuck_call_is_given_up_and_its_place_taken() -> None:
    threads, held = TimedThreads(1, DEADLINE_S, "test"), threading.Event()

    def hangs(begin: Begin) -> str:
        begin()
        held.wait(10)
        return "too late"

    stuck, alone = threads.submit(hangs), threads.run_now(hangs)
    waiting = threads.submit(lambda begin: "after it")
    time.sleep(2 * DEADLINE_S)
    threads.give_up_overdue()
    for future in (stuck, alone):
        with pytest.raises(Overdue, match="0.1 s"):
            future.result(5)
    assert waiting.result(5) == "after it" and threads.stuck == 2
    held.set()
    end = time.monotonic() + 5
    while threads.stuck:
        assert time.monotonic() < end
        time.sleep(0.01)
    threads.shutdown()


def test_time_in_line_does_not_count() -> None:
    threads, held = TimedThreads(1, DEADLINE_S, "test"), threading.Event()

    def waits(begin: Begin) -> str:
        held.wait(10)
        begin()
        return "done"

    future = threads.submit(waits)
    time.sleep(2 * DEADLINE_S)
    threads.give_up_overdue()
    held.set()
    assert future.result(5) == "done"
    threads.shutdown()
