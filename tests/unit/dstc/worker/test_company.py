from __future__ import annotations

import threading
import time
from collections.abc import Callable

from dstc.worker.company import Company


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.05)
    return thread


def test_who_wants_to_be_alone_waits_for_the_others_and_nobody_comes_between() -> None:
    company, order = Company(), list[str]()
    company.join()
    company.join()

    def alone() -> None:
        with company.alone():
            order.append("alone")
            time.sleep(0.05)
            order.append("done")

    def join() -> None:
        company.join()
        order.append("joined")
        company.leave()

    threads = [start(alone), start(alone), start(join)]
    company.leave()
    time.sleep(0.05)
    assert order == []
    company.leave()
    for thread in threads:
        thread.join(5)
    assert order == ["alone", "done", "alone", "done", "joined"]
