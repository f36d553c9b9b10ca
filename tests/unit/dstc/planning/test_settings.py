from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from dstc.errors import SettingsError, StorageError
from dstc.planning.settings import Compile, make_settings
from dstc_engine.compiled import MODES
from dstc_engine.errors import PresetError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("slots", 0, "--slots: found 0; expected a whole number, 1 to 1024, or auto"),
        (
            "seed",
            -1,
            "--seed: found -1; expected a whole number, 0 or more, below 9",
        ),
        ("rows_per_shard", 0, "--rows-per-shard: found 0"),
        ("limit", 0, "--limit: found 0; expected a whole number, 1 or more"),
        ("retry", "done", "--retry: found 'done'; expected one of failed, rejected, flagged"),
        ("max_rejected", 1.01, "--max-rejected: found 1.01; expected a number, 0 to 1"),
        ("max_rejected", float("nan"), "--max-rejected: found nan"),
        ("precision", "int8", "--precision: found 'int8'; expected one of fp32"),
        ("actors", "2:1", "--actors: found '2:1'; expected N, or MIN:MAX with 1 <= MIN <= MAX"),
        ("row_deadline", 0, "--row-deadline: found 0; expected a number above 0"),
        ("engine", "a b", "--engine: found 'a b'; expected a name, or package.module:RECORD"),
        ("nosuch", 1, "--nosuch: no such option"),
    ],
)
def test_values_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make_settings(manifest="m", output="o", **{name: value})
    assert str(refused.value).startswith(message)


def test_preset_fields_are_checked_at_once() -> None:
    with pytest.raises(PresetError, match="nosuch"):
        make_settings(manifest="m", output="o", set={"nosuch": "1"})
    settings = make_settings(manifest="m", output="o", set={"skip": "3"})
    assert settings.resolved_preset.skip == 3


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings(manifest="m.parquet", output="out/")
    assert settings.manifest == str(tmp_path / "m.parquet")
    assert settings.output == str(tmp_path / "out")
    assert make_settings(manifest="s3://b/m", output="s3://b/o/").output == "s3://b/o"


def test_credentials_in_urls_are_refused() -> None:
    with pytest.raises(StorageError, match="credentials"):
        make_settings(manifest="m", output="s3://key:secret@bucket/o")


@pytest.mark.parametrize(
    ("slots", "rows", "samples", "expected"),
    [(8, 16, 1, 2), (8, 8, 1, 3), (4, 64, 1, 2), (64, 16, 1, 9), (64, 16, 4, 3), (64, 16, 32, 2)],
)
def test_small_shards_come_in_greater_numbers(
    slots: int, rows: int, samples: int, expected: int
) -> None:
    settings = make_settings(
        manifest="m", output="o", slots=slots, rows_per_shard=rows, samples_per_row=samples
    )
    assert settings.shards_at_once == expected


def test_descriptions_of_weights_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"prior": "own/prior.yaml", "dino": "dino-vits8", "clips": "a.json, clip-rn50"}
    found = make_settings(manifest="m", output="o", set=changes).set
    assert found == {
        "prior": str(tmp_path / "own/prior.yaml"),
        "dino": "dino-vits8",
        "clips": f"{tmp_path / 'a.json'},clip-rn50",
    }
    url = "s3://bucket/prior.yaml"
    assert make_settings(manifest="m", output="o", set={"prior": url}).set == {"prior": url}
    with pytest.raises(StorageError, match="credentials"):
        make_settings(manifest="m", output="o", set={"prior": "s3://me:secret@bucket/p.json"})


def test_compile_takes_the_modes_of_the_engine() -> None:
    assert get_args(Compile) == MODES


def test_checkpointing_is_of_all_stages_or_of_the_large_ones() -> None:
    for value in (False, True, "large"):
        assert make_settings(manifest="m", output="o", checkpointing=value).checkpointing == value
    with pytest.raises(SettingsError, match="--checkpointing: found 'small'"):
        make_settings(manifest="m", output="o", checkpointing="small")


def test_a_student_is_an_engine_with_slots_of_its_own(tmp_path: Path) -> None:
    settings = make_settings(manifest="m", output="o", student=str(tmp_path), slots=None)
    assert (settings.engine, settings.slots, settings.fallback) == ("student", 64, "guided")
    assert settings.student == str(tmp_path / "student.json")
    assert make_settings(manifest="m", output="o", student="s", slots=8).slots == 8
    assert make_settings(manifest="m", output="o", slots=None).slots == 8


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"engine": "fake"}, "--student, --engine fake: found both"),
        ({"samples_per_row": 2}, "--samples-per-row 2: a student makes one image"),
        ({"retry": "flagged"}, "--retry flagged: another seed changes no student's image"),
        ({"fallback": "blend"}, "--fallback: found 'blend'"),
    ],
)
def test_what_does_not_go_with_a_student_is_refused(others: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_settings(manifest="m", output="o", student="s", **others)
