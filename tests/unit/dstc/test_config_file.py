from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from dstc.cli import main
from dstc.planning.settings import Settings


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs `dstc translate` up to its settings."""
    made: list[Settings] = []

    def run(settings: Settings, **others: object) -> int:
        made.append(settings)
        return 0

    monkeypatch.setattr(importlib.import_module("dstc.translate"), "run", run)

    def call(*arguments: str) -> Settings:
        with pytest.raises(SystemExit) as end:
            main(["translate", *arguments])
        assert end.value.code in (0, None), capsys.readouterr().err
        return made.pop()

    return call


def _file(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def test_every_option_may_stand_in_the_file(tmp_path: Path, settings_of) -> None:  # type: ignore[no-untyped-def]
    config = _file(
        tmp_path,
        f"""
        manifest: {tmp_path}/m.parquet
        output: {tmp_path}/out
        preset: tiny64
        set: {{skip: 12, match_colours: true, crop_scale: [0.7, 0.9]}}
        seed: 7
        slots: auto
        precision: bf16
        compile: no
        checkpointing: true
        rows-per-shard: 4
        samples_per_row: 2
        limit: 10
        retry: failed
        max_rejected: 0.5
        actors: 1:2
        row-deadline: 60.5
        device: cpu
        address:
        allow-local: [/a, /b]
        allow_private_hosts: false
        """,
    )
    found = settings_of("--config", config)
    assert found.set == {"skip": "12", "match_colours": "true", "crop_scale": "0.7,0.9"}
    assert (found.seed, found.auto_slots, found.precision, found.compile) == (7, True, "bf16", "no")
    assert (found.checkpointing, found.rows_per_shard, found.samples_per_row) == (True, 4, 2)
    assert (found.limit, found.retry, found.max_rejected) == (10, "failed", 0.5)
    assert (found.actors, found.row_deadline, found.device) == ("1:2", 60.5, "cpu")
    assert found.address is None and found.allow_local == ("/a", "/b")
    assert not found.allow_private_hosts and found.manifest == f"{tmp_path}/m.parquet"


def test_what_is_typed_wins_over_the_environment_and_that_over_the_file(  # type: ignore[no-untyped-def]
    tmp_path: Path, settings_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _file(tmp_path, "seed: 1\nslots: 2\nlimit: 3\n")
    monkeypatch.setenv("DSTC_SLOTS", "4")
    monkeypatch.setenv("DSTC_LIMIT", "5")
    monkeypatch.setenv("DSTC_SET", "skip=12 resample=2")
    found = settings_of("m", "o", "--limit", "6", "--config", config)
    assert (found.seed, found.slots, found.limit) == (1, 4, 6)
    assert found.set == {"skip": "12", "resample": "2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "unknown option 'sed'; did you mean seed? expected one of actors, address"),
        ("config: x", "unknown option 'config'"),
        ("- seed", "found a list; expected lines of OPTION: VALUE"),
        ("seed", "found a text; expected lines of OPTION: VALUE"),
        ("seed: [1, 2]", "seed: found a list; expected one value"),
        ("seed: {a: 1}", "seed: found a mapping; expected one value"),
        ("set: {skip: {a: 1}}", "set: found a mapping inside; expected text and numbers"),
        ("a: b: c", "line 1: no YAML (mapping values are not allowed here)"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _file(tmp_path, text)
    with pytest.raises(SystemExit) as end:
        main(["translate", "m", "o", "--config", config])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1
    assert err.startswith(f"error: --config {config}") and message in err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "o", "--config", "nosuch.yaml"])
    assert end.value.code == 2
    found = capsys.readouterr().err
    assert found == "error: --config nosuch.yaml: cannot be read (No such file or directory)\n"
