from __future__ import annotations

import torch
from torch import nn

from dstc_engine.training.loop import Pace, World, learning_rate, shuffled_rows, update_ema


def test_every_epoch_shows_every_picture_once_in_a_new_order() -> None:
    rows = torch.cat([shuffled_rows(12, 4, step, 0, World()) for step in range(6)])
    first, second = rows[:12].tolist(), rows[12:].tolist()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_an_epoch_ends_in_the_middle_of_a_batch() -> None:
    rows = torch.cat([shuffled_rows(10, 4, step, 0, World()) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))


def test_workers_share_a_batch_without_overlap() -> None:
    whole = shuffled_rows(100, 8, 3, 1, World())
    parts = [shuffled_rows(100, 8, 3, 1, World(rank=rank, size=2)) for rank in range(2)]
    assert [len(part) for part in parts] == [4, 4]
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())
    assert not set(parts[0].tolist()) & set(parts[1].tolist())


def test_rows_depend_on_the_step_and_the_seed_alone() -> None:
    assert torch.equal(shuffled_rows(50, 8, 7, 0, World()), shuffled_rows(50, 8, 7, 0, World()))
    assert not torch.equal(shuffled_rows(50, 8, 7, 0, World()), shuffled_rows(50, 8, 7, 1, World()))


def test_learning_rate_warms_up_then_falls_to_a_twentieth() -> None:
    rates = [learning_rate(step, 1000, 1.0, warmup=100) for step in range(1001)]
    assert rates[0] == 0.01 and rates[99] == 1.0 and rates[100] == 1.0
    assert all(a > b for a, b in zip(rates[100:], rates[101:], strict=False))
    assert abs(rates[1000] - 0.05) < 1e-12


def test_learning_rate_of_a_run_shorter_than_its_warm_up_stays_finite() -> None:
    assert learning_rate(5, 6, 1.0, warmup=200) == 6 / 200


def test_ema_forgets_the_random_start_and_then_lags() -> None:
    model, ema = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(ema.weight)
    update_ema(ema, model, 0, 0.999)
    assert torch.allclose(ema.weight, torch.tensor(0.9))
    nn.init.zeros_(ema.weight)
    update_ema(ema, model, 10**6, 0.999)
    assert torch.allclose(ema.weight, torch.tensor(0.001))


def test_ema_copies_buffers() -> None:
    model, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model(torch.randn(4, 2))
    update_ema(ema, model, 5, 0.9)
    assert torch.equal(ema.running_mean, model.running_mean)


class _Clock:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, -seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def test_pace_saves_now_and_then_and_at_the_end() -> None:
    pace = Pace(10, 0, "test", rank=1, save_minutes=3.5, clock=_Clock(60))
    assert [step for step, save in pace.run(0) if save] == [3, 7, 9]


def test_pace_stops_after_its_minutes_with_a_save() -> None:
    pace = Pace(100, 5, "test", rank=1, clock=_Clock(60))
    assert list(pace.run(90))[-1] == (95, True)


def test_pace_goes_on_from_where_it_was() -> None:
    assert [step for step, _ in Pace(5, 0, "test", rank=1).run(3)] == [3, 4]
    assert list(Pace(5, 0, "test", rank=1).run(5)) == []
