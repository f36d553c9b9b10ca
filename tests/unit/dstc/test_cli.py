from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dstc.cli import main

Write = Callable[..., Path]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("arguments", [["--help"], ["translate", "--help"], ["weights", "--help"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, _ = call(capsys, *arguments)
    assert code == 0 and "Usage" in out and "fake" not in out


def test_h_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "translate", "-h")
    assert code == 0 and "dstc translate rows.parquet out" in out
    code, out, err = call(capsys, "--version")
    assert (code, out, err) == (0, f"dstc {metadata.version('dstc')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nosuch"], "error: unknown preset 'nosuch'"),
        (["--set", "skip"], "error: --set: found 'skip'; expected KEY=VALUE"),
        (["--set", "nosuch=1"], "error: unknown preset field 'nosuch'"),
        (["--set", "skip=50"], "error: preset 'tiny64': skip is 50; expected 0-24 for 25 steps"),
        (["--engine", "guided", "--set", "prior=nosuch"], "error: unknown weights 'nosuch'"),
        (["--slots", "0"], "error: --slots: found '0'"),
        ([], "error: manifest file m.parquet, column 'content': not found"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    write_manifest: Write,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    manifest = write_manifest({"id": ["a"], "prompt": ["x"]}, "m.parquet")
    output = tmp_path / "run"
    code, _, err = call(
        capsys, "translate", str(manifest), str(output), "--engine", "fake", *arguments
    )
    assert code == 2
    assert err.startswith(message) and err.count("\n") == 1
    assert not output.exists()


def test_a_wrong_choice_is_told_in_our_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "translate", "m.parquet", "out", "--retry", "all")
    assert code == 2
    assert "'--retry': 'all' is not one of 'failed'" in err and "Value error" not in err


def test_a_wrong_column_of_a_manifest_gives_no_command_to_build_it(
    capsys: pytest.CaptureFixture[str], write_manifest: Write, tmp_path: Path
) -> None:
    manifest = write_manifest({"id": ["a"], "content": ["a.png"], "prompt": ["x"]}, "m.parquet")
    options = ["--engine", "fake", "--column", "content=image"]
    code, _, err = call(capsys, "translate", str(manifest), str(tmp_path / "run"), *options)
    assert code == 2 and "there is no column 'image'" in err and "manifest build" not in err


def test_dry_run_says_the_plan_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    write_manifest: Write,
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
) -> None:
    columns = good_rows(40)
    columns["id"][7] = columns["id"][3]
    manifest = write_manifest(columns)
    output = tmp_path / "run"
    code, out, _ = call(
        capsys, "translate", str(manifest), str(output), "--engine", "fake", "--dry-run"
    )
    assert code == 0
    assert "40 in 3 shards" in out and "1 rows will be rejected" in out
    assert not output.exists()


def test_a_dry_run_counts_the_steps_of_every_sample(
    capsys: pytest.CaptureFixture[str],
    write_manifest: Write,
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = [str(write_manifest(good_rows(2))), str(tmp_path / "run"), "--dry-run"]
    for samples, steps in ((1, 11), (4, 44)):
        code, out, _ = call(
            capsys, "translate", *arguments, "--device", "cpu", "--samples-per-row", str(samples)
        )
        assert code == 0 and f"({steps} guided steps)" in out


def test_a_dry_run_says_how_many_slots_cards_hold(
    capsys: pytest.CaptureFixture[str],
    write_manifest: Write,
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = ["translate", str(write_manifest(good_rows(2))), str(tmp_path / "run"), "--dry-run"]
    code, out, _ = call(capsys, *arguments, "--device", "cuda", "--slots", "4")
    assert code == 0 and "GiB with 4 slots; slots that fit: about " in out and " on 24 GiB" in out
    code, out, _ = call(capsys, *arguments, "--device", "cuda", "--slots", "auto")
    assert "slots that fit: about " in out and "GiB with" not in out
    for unknown in (["--device", "cpu"], ["--device", "cuda", "--set", "crops=2"]):
        code, out, _ = call(capsys, *arguments, *unknown)
        assert code == 0 and "GPU memory" not in out


def test_missing_weights_name_the_command_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
    write_manifest: Write,
    good_rows: Callable[[int], dict[str, list[Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DSTC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = [str(write_manifest(good_rows(1))), str(tmp_path / "run")]
    code, _, err = call(capsys, "translate", *arguments, "--preset", "imagenet256-text")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: preset 'imagenet256-text': no weights adm-imagenet256, ")
    assert "dstc weights fetch --preset imagenet256-text" in err


@pytest.mark.parametrize(
    "module",
    [
        "dstc.cli",
        "dstc.translate",
        "dstc.store.results",
        "dstc.worker.translate_shard",
        "dstc_engine.fake",
    ],
)
def test_what_needs_no_network_imports_no_torch(module: str) -> None:
    # Seconds and 600 MB for every process that only reads, writes, waits or pretends.
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_report_is_served_or_printed_on_a_sheet_but_not_both(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ("report", str(tmp_path), "--serve", "--contact-sheet", str(tmp_path / "a.png"))
    code, _, err = call(capsys, *arguments)
    assert (
        code == 2 and err == "error: --serve, --contact-sheet: found both; expected one of them\n"
    )
    arguments = ("report", str(tmp_path), "--beside", "b", "--contact-sheet", "a.png")
    code, _, err = call(capsys, *arguments)
    assert (
        code == 2 and err == "error: --beside, --contact-sheet: found both; expected one of them\n"
    )


def test_a_mistake_of_ours_ends_with_its_traceback_and_no_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("a") from ValueError("b\x1b[31m\u202e")

    monkeypatch.setattr("dstc.presets.show_presets", fail)
    with pytest.raises(SystemExit) as ended:
        main(["presets"])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.endswith("KeyError: 'a'\n")
    assert "Traceback" in said and r"ValueError: b\x1b[31m\u202e" in said
