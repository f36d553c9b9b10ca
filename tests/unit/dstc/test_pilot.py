"""`dstc translate --pilot`: its stages; guided and last run are written without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import pytest

from dstc import pilot
from dstc.distil import DistilPlan, distil
from dstc.errors import RunFolderError, SettingsError
from dstc.pilot import pilot_settings, run
from dstc.planning.plan import make_plan
from dstc.planning.run_identity import open_or_create
from dstc.planning.settings import Settings, make_settings
from dstc.status import print_status, read_status
from dstc.store import input_policy
from dstc.store.results import Outcome
from dstc_engine.weights.registry import file_sha256
from tests.pilot import FAST, dark, write_manifest
from tests.pilot_run import write_run

ROWS, PILOT = 40, 20
HOW = {**FAST, "steps": "1", "batch": "4"}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "data", looks=2, rows=ROWS)


def _settings(manifest: Path, /, **changes: Any) -> Settings:
    fields: dict[str, Any] = dict(
        manifest=str(manifest), output=str(manifest.parents[1] / "out"), pilot=PILOT, distil=HOW,
        device="cpu",
    )  # fmt: skip
    return make_settings(**(fields | changes))


class Translated:
    """Stands for `dstc.translate.run`: ends the pilot's rows, and notes what it was asked for.

    Args:
        end: of a row of the pilot. kill_after: raises once so many runs have ended.
    """

    def __init__(self, end: Callable[[dict[str, Any]], Any] = dark, kill_after: int = 9) -> None:
        self.end, self.kill_after = end, kill_after
        self.asked: list[Settings] = []

    def __call__(self, settings: Settings, *arguments: Any, **options: Any) -> int:
        self.asked.append(settings)
        if settings.pilot is None and not Path(settings.output).exists():
            write_run(Path(settings.output), Path(settings.manifest), self.end, engine="fake")
        if len(self.asked) >= self.kill_after:
            raise KeyboardInterrupt
        return 0


@pytest.fixture
def translated(monkeypatch: pytest.MonkeyPatch) -> Translated:
    made = Translated()
    monkeypatch.setattr(pilot, "translate", made)
    return made


def _stop(plan: DistilPlan) -> NoReturn:
    raise KeyboardInterrupt


def _record(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(settings.output) / "pilot.json").read_text())
    return found


def test_a_pilot_a_student_and_all_rows(
    manifest: Path, translated: Translated, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(manifest)
    assert (settings.engine, settings.slots) == ("student", 64)
    assert run(settings, quiet=True) == 0
    assert capfd.readouterr() == ("", "")
    guided, last = translated.asked
    out = Path(settings.output)
    assert guided == pilot_settings(settings) and last == settings
    assert (guided.engine, guided.slots, guided.output) == ("guided", 8, str(out / "pilot"))
    assert guided.inputs == settings.inputs
    assert last.student == str(out / "student" / "student.json")
    record = _record(settings)
    assert record["stage"] == "translate" and record["rows"] == PILOT
    assert [(look["rows"], look["pilot"]) for look in record["looks"]] == [(20, 10), (20, 10)]
    # The student is part of the run's identity, wherever the folder lies.
    job = open_or_create(make_plan(settings).job)
    assert job.identity["weights"]["student"] == file_sha256(out / "student/student.safetensors")
    assert job.identity["pilot"] == {"rows": PILOT, "distil": dict(sorted(HOW.items()))}
    status = read_status(settings.output)
    assert (status.stage, status.rows) == ("translate", ROWS)


def test_each_stage_goes_on_where_it_was_stopped(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(manifest)
    stopped = Translated(kill_after=1)
    monkeypatch.setattr(pilot, "translate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    status = read_status(settings.output)
    assert (status.stage, status.state) == ("pilot", "stopped")
    assert (status.rows, status.rows_ended, status.done) == (PILOT, PILOT, PILOT)
    print_status(status)
    assert "1 of 3: the pilot's rows, guided" in capsys.readouterr().out
    chosen = (Path(settings.output) / "_pilot.parquet").read_bytes()

    monkeypatch.setattr(pilot, "translate", Translated())
    monkeypatch.setattr(pilot, "distil", _stop)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    status = read_status(settings.output)
    assert (status.stage, status.state, status.rows) == ("distil", "stopped", ROWS)
    assert status.rows_ended == 0
    print_status(status)

    again = Translated()
    monkeypatch.setattr(pilot, "distil", distil)
    monkeypatch.setattr(pilot, "translate", again)
    assert run(settings) == 0
    assert again.asked == [settings], "the pilot is not run again"
    assert (Path(settings.output) / "_pilot.parquet").read_bytes() == chosen
    student = (Path(settings.output) / "student/student.json").read_bytes()
    assert run(settings) == 0
    assert (Path(settings.output) / "student/student.json").read_bytes() == student
    assert not (Path(settings.output) / "lease.json").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pilot": 21}, "pilot.rows: there 20, here 21"),
        ({"distil": {**HOW, "steps": "2"}}, 'pilot.distil.steps: there "1", here "2"'),
        ({"seed": 1}, "seed: there 0, here 1"),
        ({"fallback": "flag"}, 'engine.fallback: there "guided", here "flag"'),
        ({"pilot": None, "distil": {}}, "no job.json; expected an empty"),
    ],
)
def test_other_arguments_are_another_run(
    manifest: Path, translated: Translated, change: dict[str, Any], named: str
) -> None:
    translated.kill_after = 1
    with pytest.raises(KeyboardInterrupt):
        run(_settings(manifest))
    other = _settings(manifest, **change)
    with pytest.raises(RunFolderError, match=named):
        run(other) if other.pilot else make_plan(other)


def test_a_student_that_was_changed_since_is_refused(
    manifest: Path, translated: Translated
) -> None:
    settings = _settings(manifest)
    run(settings)
    described = Path(settings.output) / "student/student.json"
    described.write_text(described.read_text() + "\n")
    with pytest.raises(RunFolderError, match="the student there has been changed since"):
        run(settings)
    described.unlink()
    with pytest.raises(RunFolderError, match="has sha256 none; expected"):
        run(settings)


def test_a_pilot_whose_rows_mostly_failed_teaches_nothing_and_is_kept(
    manifest: Path, translated: Translated
) -> None:
    def end(row: dict[str, Any]) -> Any:
        return dark(row) if int(row["id"]) % 4 == 0 else Outcome("failed", "non_finite")

    translated.end = end
    settings = _settings(manifest)
    with pytest.raises(
        SettingsError,
        match=r"a student can learn from \d of its 20 rows \(1\d failed \(non_finite 1\d\)\); "
        r"expected 50% of them or more. Nothing is lost: .*--retry failed",
    ):
        run(settings)
    assert _record(settings)["stage"] == "pilot"
    assert read_status(settings.output).failed > 10
    shutil.rmtree(Path(settings.output) / "pilot")  # as if the rows were tried again
    translated.end = dark
    assert run(settings) == 0


def test_a_pilot_of_too_few_good_rows_of_a_look_says_how_to_go_on(
    manifest: Path, translated: Translated
) -> None:
    translated.end = lambda row: (
        Outcome("failed", "non_finite") if int(row["id"]) % 2 and row["id"] > "2" else dark(row)
    )
    settings = _settings(manifest)
    with pytest.raises(SettingsError, match="1 of 2 looks have too few rows.*The pilot is kept in"):
        run(settings)
    assert _record(settings)["stage"] == "distil"
    # The same command with --retry tries its rows again, for as long as nothing is learned.
    shutil.rmtree(Path(settings.output) / "pilot")
    translated.end, translated.asked = dark, []
    assert run(_settings(manifest, retry="failed")) == 0
    assert [asked.pilot for asked in translated.asked] == [None, PILOT]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"student": "s"}, "--pilot, --student: found both"),
        ({"engine": "fake"}, "--pilot, --engine fake: found both"),
        ({"limit": 30}, "--pilot, --limit 30: found both"),
        ({"append": True}, "--pilot, --append: found both"),
        ({"samples_per_row": 2}, "--samples-per-row 2: a student makes one image"),
        ({"retry": "flagged"}, "--retry flagged: another seed changes no student's image"),
        ({"pilot": 0}, "--pilot: found 0; expected a whole number, 1 or more"),
        ({"pilot": None}, "--distil-set: found without --pilot"),
    ],
)
def test_what_does_not_go_with_a_pilot_is_refused(
    tmp_path: Path, others: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        _settings(tmp_path / "data" / "rows.parquet", **others)


def test_rows_of_a_pilot_may_name_what_their_manifest_may(tmp_path: Path) -> None:
    here = tmp_path / "data" / "rows.parquet"
    remote = _settings(here, manifest="s3://bucket/rows.parquet")
    assert not pilot_settings(remote).inputs.any_local
    assert pilot_settings(_settings(here, output="s3://bucket/out")).inputs.any_local


def test_a_pilot_has_files_whatever_the_run_has(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "rows.parquet", store="parquet", format="webp")
    assert (pilot_settings(settings).store, pilot_settings(settings).format) == ("files", "png")


def test_nothing_is_written_for_a_pilot_that_cannot_be(
    manifest: Path, translated: Translated
) -> None:
    settings = _settings(manifest, distil={})
    with pytest.raises(SettingsError, match="most frequent one in 20 rows .*; expected 100"):
        run(settings)
    assert not Path(settings.output).exists()


def test_a_dry_run_says_each_stage_and_from_where_it_pays(
    manifest: Path, translated: Translated, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(manifest)
    assert run(settings, dry_run=True, tflops=0.1) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "look style style/0.png: 20 rows, 10 of them in the pilot" in said
    assert "1 pilot 20 rows: " in said and "(11 guided steps), given 0.1 TFLOP/s" in said
    assert "3 translate 40 rows: " in said and "1 pass of a student; rows that fall back" in said
    assert "guidance alone" in said and "rows with that fallback" in said
    assert not Path(settings.output).exists() and not translated.asked
    # Where there is a student already, it is an ordinary run that is left.
    run(settings)
    translated.asked.clear()
    run(settings, dry_run=True)
    assert translated.asked == [settings]


def test_a_pilot_on_object_storage_is_learned_from_here_and_its_student_put_there(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = manifest.parents[1] / "weights"
    monkeypatch.setenv("DSTC_WEIGHTS", str(cache))
    monkeypatch.setattr(input_policy, "SCHEMES", input_policy.SCHEMES | {"memory"})
    memory, asked = fsspec.filesystem("memory"), []

    def translate(settings: Settings, *arguments: Any, **options: Any) -> int:
        asked.append(settings.output)
        if settings.pilot is None:
            local = manifest.parents[1] / "copy"
            rows = local / "_pilot.parquet"
            memory.get_file("/here/out/_pilot.parquet", str(rows.parent.mkdir() or rows))
            write_run(local / "run", rows, dark, engine="fake")
            memory.put(str(local / "run"), "/here/out/pilot", recursive=True)
        return 0

    monkeypatch.setattr(pilot, "translate", translate)
    assert run(_settings(manifest, output="memory://here/out"), quiet=True) == 0
    assert asked == ["memory://here/out/pilot", "memory://here/out"]
    names = {Path(name).name for name in memory.ls("/here/out/student", detail=False)}
    assert {"student.json", "student.safetensors", "card.md"} <= names
    assert "checkpoint.pt" not in names and not list((cache / "students").iterdir())
