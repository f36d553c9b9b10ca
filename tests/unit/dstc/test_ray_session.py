"""The options that a run gives Ray Data."""

from __future__ import annotations

import pytest
import ray.data

from dstc.planning.settings import make_settings
from dstc.ray_session import set_data_context
from tests.ray_session import RAY_WARNINGS


@RAY_WARNINGS
@pytest.mark.parametrize(
    ("rows", "samples", "expected"), [(4, 1, 3600), (16, 1, 9600), (16, 4, 38400)]
)
def test_a_job_that_stands_still_ends_after_ten_minutes_for_each_image_of_a_shard(
    monkeypatch: pytest.MonkeyPatch, rows: int, samples: int, expected: int
) -> None:
    context = ray.data.DataContext()
    monkeypatch.setattr(ray.data.DataContext, "get_current", lambda: context)
    set_data_context(
        make_settings(manifest="m", output="o", rows_per_shard=rows, samples_per_row=samples)
    )
    assert context.execution_no_progress_timeout_s == expected
