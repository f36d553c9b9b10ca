"""Which rows of a large run the gallery shows."""

from __future__ import annotations

import numpy as np

from dstc.reporting.chosen import choose
from dstc.reporting.extremes import MOST, Extremes, ends_of
from dstc.reporting.tally import Miss, Reason, Tally

PARTS = [(shard, 1000) for shard in range(100)]


def _extremes(*names: str) -> Extremes:
    extremes = Extremes()
    for shard, rows in PARTS:
        values = {name: shard * 1000.0 + np.arange(rows) for name in names}
        extremes.add(shard, ends_of(values))
    return extremes


def test_all_rows_are_shown_where_they_find_room() -> None:
    chosen = choose(Tally(rows=12, parts=[(0, 5), (2, 7)]), _extremes("a"), 12)
    assert list(chosen.places) == [(0, n) for n in range(5)] + [(2, n) for n in range(7)]
    assert chosen.spread == 12 and not chosen.ranked


def test_examples_ends_and_a_spread_share_the_room() -> None:
    misses = [Miss((50, n), "x", "failed", "rare", "", "") for n in range(3)]
    reasons = {("failed", "rare"): Reason("failed", "rare", 3, misses)}
    flags = {"range": [(7, 7), (50, 1)]}
    tally = Tally(rows=100_000, parts=PARTS, reasons=reasons, flag_examples=flags)
    chosen = choose(tally, _extremes("a"), 200)
    places = set(chosen.places)
    assert len(places) == len(chosen.places) == 200
    assert list(chosen.places) == sorted(places)
    assert {(50, 0), (50, 1), (50, 2), (7, 7)} <= places
    assert {(0, n) for n in range(MOST)} | {(99, 999 - n) for n in range(MOST)} <= places
    assert chosen.spread == 200 - 4 - 2 * MOST and list(chosen.ranked) == ["a"]
    numbers = np.array([1000 * shard + row for shard, row in chosen.places])
    assert np.diff(numbers).max() < 2 * 100_000 / chosen.spread, "no gap in the spread"


def test_many_reasons_and_metrics_leave_room_for_the_rest() -> None:
    reasons = {
        ("failed", str(n)): Reason("failed", str(n), 1, [Miss((n, 5), "x", "f", "r", "", "")])
        for n in range(100)
    }
    tally = Tally(rows=100_000, parts=PARTS, reasons=reasons)
    chosen = choose(tally, _extremes(*map(str, range(50))), 200)
    assert len(chosen.places) == 200 and chosen.spread >= 60


def test_each_number_keeps_its_lowest_and_highest_rows() -> None:
    extremes = Extremes()
    rng = np.random.default_rng(0)
    values = rng.permutation(3000).astype(float).reshape(3, 1000)
    values[0, :10] = np.nan
    values[1, :10] = np.inf
    for shard, of_part in enumerate(values):
        extremes.add(shard, ends_of({"a": of_part, "none": np.full(1000, np.nan)}))
    known = np.sort(values[np.isfinite(values)])
    assert extremes.names == ["a"]
    assert [values[place] for place in extremes.lowest("a")] == list(known[:MOST])
    assert [values[place] for place in extremes.highest("a")] == list(known[: -MOST - 1 : -1])
