"""`dstc presets`: the list, the fields, the marks of `--set`."""

from __future__ import annotations

import dataclasses

import pytest

from dstc import presets
from dstc.cli import main
from dstc_engine.presets import FIELDS, PRESETS, get_preset, with_fields


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setenv("COLUMNS", "200")  # one line a row
    with pytest.raises(SystemExit) as end:
        main(["presets", *arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_one_line_for_each_preset(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 1 + len(PRESETS)
    line_of = {line.split()[0]: line for line in lines[1:]}
    assert line_of.keys() == PRESETS.keys()
    assert line_of["imagenet512-image"].split()[:4] == [
        "imagenet512-image",
        "512",
        "129",
        "adm-imagenet512",
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_is_shown_as_set_would_take_it(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, name)
    assert code == 0 and "changed from" not in out
    shown = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:-1]}
    assert shown.keys() == FIELDS.keys()
    # All of it, given to another preset, makes that one this one.
    copied = with_fields(get_preset("tiny64"), shown)
    assert dataclasses.replace(copied, name=name) == get_preset(name)
    assert out.splitlines()[-1].startswith(f"{get_preset(name).guided_steps} guided steps")
    for field in FIELDS:
        assert FIELDS[field].meaning in out


def test_changes_are_marked_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("--set", "skip=30", "--set", "noise_mix=false", "--set", "crops=8")
    code, out, _ = call(capsys, monkeypatch, "imagenet256-text", *changes)
    assert code == 0
    marked = {line.split()[0]: line for line in out.splitlines() if "changed from" in line}
    assert marked.keys() == {"skip", "noise_mix"}, "crops was 8 before"
    assert "30  (changed from 40)" in marked["skip"]
    assert "false  (changed from true)" in marked["noise_mix"]
    assert "79 guided steps" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagnet256-text"], "did you mean imagenet256-text? expected one of tiny64"),
        (["tiny64", "--set", "wieght_clip=1"], "did you mean weight_clip?"),
        (["tiny64", "--set", "skip=50"], "preset 'tiny64': skip is 50; expected 0-24 for 25 steps"),
        (["tiny64", "--set", "skip"], "expected KEY=VALUE"),
        (["--set", "skip=1"], "--set: found no preset to change"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert code == 2 and not out and err.count("\n") == 1
    assert message in err


def test_every_preset_has_a_line() -> None:
    assert presets._FOR.keys() == PRESETS.keys()
