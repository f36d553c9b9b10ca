from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dstc_engine.training.loop import (
    Pace,
    Recipe,
    World,
    decayed_groups,
    fit,
    learning_rate,
    runs_in_bf16,
    shuffled_rows,
    update_ema,
)
from dstc_engine.training.settings import TrainingSettings


def test_every_epoch_shows_every_image_once_in_a_new_order() -> None:
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


def test_matrices_alone_decay() -> None:
    matrices, others = decayed_groups(nn.Linear(3, 2), 0.1)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in matrices["params"]] == [(2, 3)]
    assert [p.shape for p in others["params"]] == [(2,)]


def _settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(
        **{"steps": 4, "batch": 8, "peak_rate": 1e-2, "ema": 0.9, "bf16": False, **changes}
    )


def _native_bf16(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_left_out_where_a_cpu_would_emulate_it(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    _native_bf16(monkeypatch, native)
    assert runs_in_bf16(_settings(bf16=True), "cpu") is native
    assert runs_in_bf16(_settings(bf16=True), "cuda:0")
    assert not runs_in_bf16(_settings(), "cpu") and not runs_in_bf16(_settings(), "cuda:0")


def _recipe(losses_seen: list[float] | None = None, **settings: Any) -> Recipe[nn.Sequential]:
    """Learns a sum through dropout (which draws from the global generator), ships one layer."""
    how = _settings(**settings)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    steps_taken = iter(range(1, 100))

    def draw(step: int, generator: torch.Generator) -> Tensor:
        return torch.randn(8, 3, generator=generator)

    def losses(forward: Callable[..., Tensor], step: int, x: Tensor) -> dict[str, Tensor]:
        output = forward(x)
        assert output.dtype == (torch.bfloat16 if runs_in_bf16(how, "cpu") else torch.float32)
        loss = (output.float() - x.sum(1, keepdim=True)).pow(2).mean()
        if losses_seen is not None:
            losses_seen.append(float(loss.detach()))
        return {"loss": loss, "loss_twice": 2 * loss}

    def evaluate(ema: nn.Sequential, sheet: Path) -> dict[str, float]:
        assert not ema.training
        sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.touch()
        return {"val": 0.123456}

    return Recipe(
        kind="sum",
        network=network,
        architecture={"width": 2},
        settings=how,
        warmup=1,
        gradient_norm=1.0,
        optimizer=lambda network: torch.optim.AdamW(network.parameters()),
        draw=draw,
        losses=losses,
        evaluate=evaluate,
        columns=("loss", "loss_twice", "taken", "val"),
        shipped=lambda network: network[0],
        after_step=lambda: {"taken": float(next(steps_taken))},
        described={"mean": [0.5]},
        key="net",
    )


def _stopped(out: Path) -> None:
    fit(_recipe(), out, 1.5, World(clock=_Clock(60)))
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 2


def _same(one: Path, two: Path) -> bool:
    want, got = load_file(one), load_file(two)
    return want.keys() == got.keys() and all(torch.equal(want[key], got[key]) for key in want)


def test_a_continued_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = fit(_recipe(), tmp_path / "unbroken")
    _stopped(tmp_path / "broken")
    torch.rand(7)  # another process draws other numbers in between
    assert _same(unbroken, fit(_recipe(), tmp_path / "broken"))
    rows = (tmp_path / "broken" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "4"]


def test_a_run_of_an_older_version_is_continued(tmp_path: Path) -> None:
    unbroken = fit(_recipe(), tmp_path / "unbroken")
    _stopped(tmp_path / "broken")
    path = tmp_path / "broken" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state.keys() == {
        "step", "seconds", "bf16_steps", "net", "ema", "optimizer", "training", "config", "initial"
    }  # fmt: skip
    kept = ("step", "net", "ema", "optimizer")
    torch.save({key: state[key] for key in kept}, path)
    assert _same(unbroken, fit(_recipe(), tmp_path / "broken"))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    first = fit(_recipe(), tmp_path).stat().st_mtime_ns
    assert fit(_recipe(), tmp_path).stat().st_mtime_ns == first


def test_a_run_leaves_weights_their_description_a_log_and_sheets(tmp_path: Path) -> None:
    seen: list[float] = []
    weights = fit(_recipe(seen, steps=51), tmp_path / "run")
    files = (p.relative_to(tmp_path / "run") for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert sorted(map(str, files)) == [
        "checkpoint.pt", "log.csv", "samples/000051.png", "sum.json", "sum.safetensors"
    ]  # fmt: skip
    assert load_file(weights).keys() == {"weight", "bias"}
    record = json.loads((tmp_path / "run" / "sum.json").read_text())
    assert (record["steps"], record["pictures"], record["mean"]) == (51, 408, [0.5])
    assert (record["architecture"], record["initial"]) == ({"width": 2}, None)
    assert record["training"]["peak_rate"] == 1e-2
    assert record["metrics"]["val"] == 0.12346
    with (tmp_path / "run" / "log.csv").open() as file:
        first, last = csv.DictReader(file)
    # Losses are means since the last line, what `after_step` gives is the last of them.
    assert float(first["loss"]) == pytest.approx(sum(seen[:50]) / 50, abs=1e-5)
    assert float(first["loss_twice"]) == pytest.approx(sum(seen[:50]) / 25, abs=1e-5)
    assert (first["step"], first["taken"], first["val"]) == ("50", "50.00000", "")
    assert float(last["loss"]) == pytest.approx(seen[50], abs=1e-5)
    assert (last["step"], last["taken"], last["val"]) == ("51", "51.00000", "0.12346")


def test_the_first_worker_alone_writes_and_all_report(tmp_path: Path) -> None:
    reports: list[int] = []
    world = World(rank=1, size=2, report=lambda step, metrics: reports.append(step))
    fit(_recipe(), tmp_path / "run", world=world)
    assert reports == [4] and not (tmp_path / "run").exists()


def test_a_run_says_how_many_of_its_steps_were_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def trained(steps: int) -> dict[str, Any]:
        weights = fit(_recipe(steps=steps, bf16=True), tmp_path)
        record: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text())
        return record

    _native_bf16(monkeypatch, True)
    assert trained(2)["bf16_steps"] == 2 and not caplog.text
    _native_bf16(monkeypatch, False)  # as on another machine
    record = trained(5)
    assert (record["steps"], record["bf16_steps"], record["training"]["bf16"]) == (5, 2, True)
    assert "sum trains in float32, not in bfloat16 as set" in caplog.text


def test_steps_of_an_older_version_count_as_its_settings_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _native_bf16(monkeypatch, True)
    fit(_recipe(steps=2, bf16=True), tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["bf16_steps"]
    torch.save(state, tmp_path / "checkpoint.pt")
    _native_bf16(monkeypatch, False)
    weights = fit(_recipe(steps=3, bf16=True), tmp_path)
    assert json.loads(weights.with_suffix(".json").read_text())["bf16_steps"] == 2
