"""What the driver says of errors that Ray really hands it: the innermost cause, and no advice."""

from __future__ import annotations

from typing import Any

import pytest
import ray.data

from dstc.ray_session import job_error
from dstc.worker.named_rows import naming_rows
from tests.ray_session import RAY_WARNINGS

pytestmark = [pytest.mark.usefixtures("ray_session"), RAY_WARNINGS]


def fail(batch: Any) -> Any:
    with naming_rows(32, 16, 2):
        try:
            return {}["x\x1b[31m"]
        except KeyError as error:
            raise ValueError("outer") from error


class NoNetworks:
    def __init__(self) -> None:
        raise RuntimeError("no networks here")

    def __call__(self, batch: Any) -> Any:
        return batch


def said_of(dataset: ray.data.Dataset) -> str:
    with pytest.raises(Exception) as raised:
        dataset.materialize()
    return str(job_error(raised.value, "the job"))


def test_of_a_function_and_of_an_actor_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "max_consecutive_actor_init_deaths", 0)
    end = ". What is done is kept; the same command continues"
    rows = ray.data.range(1, override_num_blocks=1)
    assert said_of(rows.map_batches(fail)) == (
        rf"the job broke: KeyError: 'x\x1b[31m'; manifest rows 32 to 47 (shard 2){end}"
    )
    loading = rows.map_batches(NoNetworks, compute=ray.data.ActorPoolStrategy(size=1))
    assert said_of(loading) == f"the job broke: RuntimeError: no networks here{end}"
