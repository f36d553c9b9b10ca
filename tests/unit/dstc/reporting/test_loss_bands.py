"""Losses over guided steps: what the bands are made of."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from dstc.reporting.last_losses import NAME, find_last_extremes
from dstc.reporting.loss_bands import read_bands
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc_engine.request import StepLosses

NAN = math.nan


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(str(tmp_path_factory.mktemp("run")))


def _write(run: RunFolder, shard: int, chains: list[list[float]], restarts: int = 0) -> None:
    """Rows with these structure losses; one without steps was rejected."""
    outcomes = [
        Outcome(
            "done" if chain else "rejected",
            steps=len(chain),
            restarts=restarts,
            losses=[
                StepLosses(
                    max(0, len(chain) - 2 - step),
                    "resample" if step < 2 else "sample",
                    {"structure": value, "clip": NAN if step < 3 else value},
                )
                for step, value in enumerate(chain)
            ],
        )
        for chain in chains
    ]
    rows = pa.table({"id": [str(n) for n in range(len(chains))]})
    write_part(run, shard, result_table(rows, outcomes))


def test_median_and_tenths_over_rows(run: RunFolder) -> None:
    _write(run, 0, [[n + step for step in range(5)] for n in range(11)])
    found = read_bands(run, [(0, 11)])
    structure, clip = found.bands
    assert (found.rows, found.steps, found.resampled) == (11, 5, 2) and not found.is_sample
    np.testing.assert_allclose(structure.median, 5 + np.arange(5))
    np.testing.assert_allclose(structure.low, 1 + np.arange(5))
    np.testing.assert_allclose(structure.high, 9 + np.arange(5))
    assert structure.name == "structure" and clip.name == "clip"
    assert np.isnan(clip.median[:3]).all() and clip.median[3] == 8, "a gate that opened late"


def test_chains_of_other_lengths_and_restarts_are_told(run: RunFolder) -> None:
    _write(run, 0, [[1.0] * 6, [9.0] * 4, [3.0] * 6, [], [2.0, 2.0, NAN, 2.0, 2.0, math.inf]])
    _write(run, 4, [[2.0] * 6], restarts=2)
    found = read_bands(run, [(0, 5), (4, 1)])
    assert (found.rows, found.of_other_length, found.restarted) == (4, 1, 1)
    np.testing.assert_allclose(found.bands[0].median, 2.0)


def test_a_sample_of_a_large_run_is_enough(run: RunFolder) -> None:
    for shard in range(4):
        _write(run, shard, [[float(shard)] * 3] * 100)
    found = read_bands(run, [(shard, 100) for shard in range(4)], most=40)
    assert found.rows == 40 and found.is_sample
    np.testing.assert_allclose(found.bands[0].median, 1.5)


def test_runs_without_losses_have_no_bands(run: RunFolder) -> None:
    _write(run, 0, [[], []])
    assert read_bands(run, [(0, 2)]).bands == ()
    assert read_bands(run, []).rows == 0
    assert read_bands(run, [(7, 2)]).rows == 0, "a part that is gone"


def test_rows_are_ranked_by_their_last_structure_loss(run: RunFolder) -> None:
    _write(run, 0, [[9.0, 2.0], [0.0, 5.0], [], [1.0, NAN]])
    _write(run, 1, [[7.0, 1.0], [8.0, 8.0, 3.0]])
    found = find_last_extremes(run, [(0, 4), (1, 2), (2, 9)])
    assert found.lowest(NAME) == [(1, 0), (0, 0), (1, 1), (0, 1)]
    assert found.highest(NAME) == found.lowest(NAME)[::-1]
