from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.dstc.one_actor import Job, MakeJob


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[MakeJob]:
    jobs: list[Job] = []

    def make(manifest: Path, rows: int = 100, output: str = "run", **options: Any) -> Job:
        jobs.append(Job(manifest, tmp_path / output, rows, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.actor.close()
