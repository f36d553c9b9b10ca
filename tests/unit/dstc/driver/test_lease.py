from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dstc.driver import lease as lease_module
from dstc.driver.lease import EXPIRES_AFTER_S, Lease
from dstc.errors import RunFolderError
from dstc.store import conditional
from tests.lease_clock import Clock


def lease_of(tmp_path: Path) -> Lease:
    return Lease(str(tmp_path / "lease.json"), "OUTPUT")


def as_of_another_host(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "far-away"}))


def test_a_free_folder_is_taken_at_once_and_given_back(tmp_path: Path) -> None:
    clock, lease = Clock(), lease_of(tmp_path)
    clock.take(lease)
    assert clock.now == 0 and lease.is_ours() and lease.renew()
    lease.release()
    assert not (tmp_path / "lease.json").exists()


def test_a_second_driver_is_told_who_is_at_work(tmp_path: Path) -> None:
    first = lease_of(tmp_path)
    Clock().take(first)
    clock, second = Clock(meanwhile=first.renew), lease_of(tmp_path)
    with pytest.raises(RunFolderError, match=f"OUTPUT: another driver .*process {os.getpid()}"):
        clock.take(second)
    assert first.is_ours()
    second.release()
    assert first.is_ours(), "what is not ours is not given back"


def test_a_lease_that_nobody_renews_runs_out(tmp_path: Path) -> None:
    first = lease_of(tmp_path)
    Clock().take(first)
    as_of_another_host(tmp_path / "lease.json")
    clock, second = Clock(), lease_of(tmp_path)
    clock.take(second)
    (message,) = clock.messages
    assert "far-away" in message and clock.now >= EXPIRES_AFTER_S
    assert second.is_ours()
    assert not first.renew(), "who was thought dead finds out"


def test_a_lease_given_back_meanwhile_is_taken(tmp_path: Path) -> None:
    first = lease_of(tmp_path)
    Clock().take(first)
    clock, second = Clock(meanwhile=first.release), lease_of(tmp_path)
    clock.take(second)
    assert clock.now < EXPIRES_AFTER_S and second.is_ours()


def test_a_driver_of_this_machine_that_is_dead_is_not_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys; from dstc.driver.lease import Lease; Lease(sys.argv[1], '').take(); "
        "import os; os._exit(0)"
    )
    path = tmp_path / "lease.json"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    clock, lease = Clock(), lease_of(tmp_path)
    clock.take(lease)
    assert clock.messages == []
    assert clock.now < 5 and lease.is_ours()


def test_of_two_that_take_over_at_once_the_last_to_write_has_it(tmp_path: Path) -> None:
    first = lease_of(tmp_path)
    Clock().take(first)
    path = tmp_path / "lease.json"
    as_of_another_host(path)
    third = lease_of(tmp_path)

    def write_over() -> None:
        if json.loads(path.read_text()).get("host") != "far-away":
            path.write_bytes(third._content())

    with pytest.raises(RunFolderError, match="has just taken it"):
        Clock(meanwhile=write_over).take(lease_of(tmp_path))
    assert third.is_ours()


def test_a_lease_nobody_can_read_runs_out_too(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("half of")
    clock, lease = Clock(), lease_of(tmp_path)
    clock.take(lease)
    assert lease.is_ours()


def test_a_lease_is_kept_while_its_block_runs_and_its_loss_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_EVERY_S", 0.01)
    first, lost = lease_of(tmp_path), threading.Event()
    Clock().take(first)
    path = tmp_path / "lease.json"
    before = path.read_text()
    with first.kept(on_lost=lost.set):
        end = time.monotonic() + 10
        while path.read_text() == before:
            assert time.monotonic() < end
        assert not lost.is_set()
        # A plain write between look and rename of a renewal, every 10 ms here, would be lost.
        taken = None
        while taken is None:
            found = conditional.read(str(path))
            assert found is not None
            taken = conditional.swap(str(path), lease_of(tmp_path)._content(), found.version)
        assert lost.wait(10) and first.is_lost
    assert path.exists(), "it is another's now"
