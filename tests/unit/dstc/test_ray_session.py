"""How Ray is started, and the options that a run gives Ray Data."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray
import ray.data

from dstc.errors import JobError
from dstc.planning.settings import make_settings
from dstc.ray_session import set_data_context, start_ray
from tests.ray_session import RAY_WARNINGS

LEVEL = "RAY_BACKEND_LOG_LEVEL"
NOTICE = (
    "[2026-11-28 16:04:42,439 I 9 9] logging.cc:303: Set ray log level from environment variable "
    f"{LEVEL} to 3\n"
)
TROUBLE = "[2026-11-28 16:04:42,440 E 9 9] core_worker.cc:1: Something else is wrong\n"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `ray.init` that writes what Ray's core writes, past Python, and then fails."""
    monkeypatch.delenv(LEVEL, raising=False)

    def init(**options: Any) -> None:
        os.write(2, (NOTICE + TROUBLE).encode())
        raise RuntimeError(os.environ[LEVEL])

    monkeypatch.setattr(ray, "init", init)


def test_of_what_the_core_writes_its_level_alone_is_dropped(
    core: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobError, match="too busy: fatal"):
        start_ray(None)
    assert capfd.readouterr().err == TROUBLE
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "after it\n"
    assert LEVEL not in os.environ  # a command started from here would take it for asked for


def test_a_level_that_was_asked_for_is_shown(
    core: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LEVEL, "debug")
    with pytest.raises(JobError, match="too busy: debug"):
        start_ray(None)
    assert capfd.readouterr().err == NOTICE + TROUBLE


@RAY_WARNINGS
def test_whether_a_job_stands_still_is_not_for_ray_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ray.data.DataContext()
    monkeypatch.setattr(ray.data.DataContext, "get_current", lambda: context)
    set_data_context(make_settings(manifest="m", output="o"))
    assert context.execution_no_progress_timeout_s == -1
