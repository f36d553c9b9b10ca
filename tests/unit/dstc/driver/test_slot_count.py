"""`--slots auto`: what is recorded goes first, GPUs are measured by kind, CPUs are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dstc.driver import slot_count
from dstc.driver.slot_count import kinds_of_cards, with_measured_slots, with_recorded_slots
from dstc.errors import SettingsError
from dstc.planning.settings import USUAL_SLOTS, Settings, make_settings
from dstc_engine.errors import DeviceMemoryError, PresetError


def auto(tmp_path: Path, **values: Any) -> Settings:
    return make_settings(manifest="m.parquet", output=str(tmp_path / "out"), slots="auto", **values)


class Cluster:
    """Stands in for Ray: calls what is asked for at once, and notes on which kind of card."""

    def __init__(self, answers: dict[str, int | Exception]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"GPU": 8.0, kind: 1.0}} for kind in self.answers]

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 0, "num_gpus": 1, "max_calls": 1}
        return lambda function: self

    def options(self, resources: dict[str, float] | None) -> Any:
        (kind,) = resources or {"": 0.0}
        self.asked.append(kind)
        answer = self.answers[kind]

        class Task:
            @staticmethod
            def remote(settings: Settings, weights: str | None) -> int | Exception:
                assert weights == "s3://bucket/weights"
                return answer

        return Task

    def get(self, references: list[Any]) -> list[Any]:
        return references


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def measure(answers: dict[str, int | Exception]) -> tuple[Settings, list[str]]:
        cluster = Cluster(answers)
        monkeypatch.setattr(slot_count, "ray", cluster)
        settings = with_measured_slots(auto(tmp_path), "cuda", "s3://bucket/weights")
        return settings, cluster.asked

    return measure


def test_auto_is_undecided_until_it_is_settled(tmp_path: Path) -> None:
    settings = auto(tmp_path)
    assert settings.auto_slots and settings.slots == USUAL_SLOTS
    assert not make_settings(manifest="m", output="o", slots="4").auto_slots
    with pytest.raises(SettingsError, match="--slots: found 'many'"):
        make_settings(manifest="m", output="o", slots="many")


def test_a_run_goes_on_with_the_slots_it_was_begun_with(tmp_path: Path) -> None:
    settings = auto(tmp_path)
    assert with_recorded_slots(settings) is settings, "there is no run yet"
    (tmp_path / "out").mkdir()
    job = tmp_path / "out" / "job.json"
    job.write_text(json.dumps({"identity": {"engine": {"slots": 23}}}))
    settled = with_recorded_slots(settings)
    assert (settled.slots, settled.auto_slots) == (23, False)
    given = make_settings(manifest="m", output=settings.output, slots=4)
    assert with_recorded_slots(given) is given, "what is given is not overruled"
    job.write_text("{}")
    assert with_recorded_slots(settings) is settings


def test_the_smallest_kind_of_card_decides(measured: Any) -> None:
    settings, asked = measured({"accelerator_type:H100": 28, "accelerator_type:L4": 6})
    assert (settings.slots, settings.auto_slots) == (6, False)
    assert asked == ["accelerator_type:H100", "accelerator_type:L4"]


def test_cards_without_a_name_are_measured_too(measured: Any) -> None:
    settings, asked = measured({"": 12})
    assert settings.slots == 12 and asked == [""]


def test_what_a_card_says_is_not_wrapped(measured: Any) -> None:
    error = DeviceMemoryError("one slot takes 12.0 GiB; found 9.0 GiB")
    with pytest.raises(DeviceMemoryError, match="one slot takes"):
        measured({"accelerator_type:H100": 28, "accelerator_type:T4": error})


def test_kinds_are_those_of_living_nodes_with_gpus() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "accelerator_type:TPU": 1.0}},
        {"Alive": False, "Resources": {"GPU": 1.0, "accelerator_type:A100": 1.0}},
        {"Alive": True, "Resources": {"GPU": 2.0, "accelerator_type:L4": 1.0, "memory": 1.0}},
    ]
    assert kinds_of_cards(nodes) == ["accelerator_type:L4"]


def test_cpus_take_the_usual_number_and_measure_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_count, "ray", None)
    settings = with_measured_slots(auto(tmp_path), "cpu", None)
    assert (settings.slots, settings.auto_slots) == (USUAL_SLOTS, False)


def test_an_error_of_ours_leaves_the_card_as_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(settings: Settings, device: str, weights: str | None) -> None:
        raise PresetError(f"nothing on {device}")

    monkeypatch.setattr("dstc.engines.guided.load_networks", fails)
    found = slot_count._measure(auto(tmp_path), None)
    assert isinstance(found, PresetError) and str(found) == "nothing on cuda"
