"""Names and errors that steer a terminal or a page, and what is told at the end of a job."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstc.cli import main
from dstc.log_lines import show_logs
from dstc.planning.plan import make_plan
from dstc.planning.run_identity import open_or_create
from dstc.planning.settings import make_settings
from dstc.report import write_report
from dstc.store.results import DONE, FAILED, REJECTED, Outcome, result_table, write_part
from dstc.text import describe, visible
from tests.hostile.case import Case

RED = "\x1b[31m"
LINK = "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07"
BACKWARDS = "\u202egpj.exe"


@dataclass(frozen=True)
class Scene:
    """Where a case is tried."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def command(self, *arguments: str) -> tuple[int, str]:
        """Runs `dstc ARGUMENTS`; its exit code, and all that it printed."""
        self.capture.readouterr()
        code: Any = 0
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
        printed = self.capture.readouterr()
        return code, printed.out + printed.err

    def finished_run(
        self, outcomes: Sequence[Outcome], output: str = "out", ids: Sequence[str] = ()
    ) -> list[str]:
        """A run whose rows have all ended; the arguments of its `dstc translate`."""
        ids = ids or [f"row-{number}" for number in range(len(outcomes))]
        columns = {"id": ids, "content": ["a.png"] * len(ids), "prompt": ["a text"] * len(ids)}
        manifest = self.folder / "rows.parquet"
        pq.write_table(pa.table(columns), manifest)
        arguments = [str(manifest), str(self.folder / output)]
        settings = make_settings(
            manifest=arguments[0], output=arguments[1], engine="fake", rows_per_shard=4
        )
        plan = make_plan(settings)
        open_or_create(plan.job)
        for shard in range(plan.manifest.shards):
            part = slice(4 * shard, 4 * shard + 4)
            rows = pa.table({name: values[part] for name, values in columns.items()})
            write_part(plan.job.run, shard, result_table(rows, outcomes[part]))
        return ["translate", *arguments, "--engine", "fake", "--rows-per-shard", "4"]


CASES: list[Case] = []
TRIALS: dict[str, Callable[[Scene], None]] = {}


def case(what: str, outcome: str) -> Callable[[Callable[[Scene], None]], None]:
    """Makes a function one of the cases, under its name."""

    def register(trial: Callable[[Scene], None]) -> None:
        CASES.append(Case("Being told", trial.__name__, what, outcome))
        TRIALS[trial.__name__] = trial

    return register


def assert_tame(text: str) -> None:
    """Nothing in the text moves a cursor, changes a color, hides a link or turns letters around."""
    assert not [c for c in text if not c.isprintable() and c not in "\n\t"], ascii(text)


# -- names ----------------------------------------------------------------------------------------


@case("OUTPUT is `out[/b]`, an end tag of Rich's markup", "done")
def markup_in_the_name_of_the_output(scene: Scene) -> None:
    code, said = scene.command(*scene.finished_run([Outcome(DONE)] * 5, "out[/b]"))
    assert code == 0 and f"{scene.folder}/out[/b]/results" in said.replace("\n", "")
    code, said = scene.command("status", f"{scene.folder}/out[/b]")
    assert code == 0 and "5 of 5" in said


@case("OUTPUT is `:cat:[bold]`, a picture and a style of Rich's", "done")
def emoji_code_in_the_name_of_the_output(scene: Scene) -> None:
    code, said = scene.command(*scene.finished_run([Outcome(DONE)], ":cat:[bold]"), "--dry-run")
    assert code == 0 and ":cat:[bold] (continued)" in said


@case("OUTPUT has a color, a link (OSC 8) and a bidi override in its name", "done")
def escapes_in_the_name_of_the_output(scene: Scene) -> None:
    name = f"out{RED}{LINK.replace('/', '')}{BACKWARDS}"
    code, said = scene.command(*scene.finished_run([Outcome(DONE)], name))
    assert code == 0
    assert_tame(said)
    assert r"out\x1b[31m\x1b]8;;" in said and r"\u202egpj.exe" in said


@case("OUTPUT holds no run, and its name has a line end and a screen clearer", "refused: exit 2")
def a_second_line_in_the_name_of_a_folder(scene: Scene) -> None:
    code, said = scene.command("status", f"{scene.folder}/a\nfinished: all well\x1b[2J")
    assert code == 2 and said.count("\n") == 1, "one line, and no line of its own making"
    assert_tame(said)
    assert r"a\nfinished: all well\x1b[2J" in said


@case("an option's value is an escape", "refused: exit 2")
def escapes_in_an_option(scene: Scene) -> None:
    code, said = scene.command("translate", "m.parquet", "out", "--actors", RED)
    assert code == 2 and r"\x1b[31m" in said
    assert_tame(said)


@case("the file lease.json of a folder names a holder with escapes", "kept")
def escapes_in_the_name_of_another_driver(scene: Scene) -> None:
    from dstc.driver.terminal import print_waiting

    print_waiting(f"host {RED}{BACKWARDS}, process 7")
    said = scene.capture.readouterr().err
    assert_tame(said)
    assert r"host \x1b[31m\u202egpj.exe" in said


# -- errors and reasons ---------------------------------------------------------------------------


@case("the reasons and the run's id in a folder hold escapes and markup", "done")
def escapes_in_reasons(scene: Scene) -> None:
    outcomes = [Outcome(DONE)] * 11 + [Outcome(REJECTED, f"bad{RED}[/b]", "x")]
    arguments = scene.finished_run(outcomes)
    for command in (arguments, ["status", arguments[2]]):
        code, said = scene.command(*command)
        assert code == 0 and r"bad\x1b[31m[/b] 1" in said
        assert_tame(said)


@case("`dstc status --json` of such a folder", "done")
def escapes_in_json(scene: Scene) -> None:
    arguments = scene.finished_run([Outcome(REJECTED, f"bad{RED}{BACKWARDS}", "x")])
    code, said = scene.command("status", arguments[2], "--json")
    assert code == 0
    assert_tame(said)
    assert json.loads(said)["rejected_reasons"] == {f"bad{RED}{BACKWARDS}": 1}, "programs read it"


@case("an id, an error and a prompt with escapes in the report", "done")
def escapes_in_the_report(scene: Scene) -> None:
    error = f"cannot{RED}read {BACKWARDS}\nsecond line"
    arguments = scene.finished_run([Outcome(FAILED, "fetch_error", error)], ids=[f"i{LINK}"])
    page = Path(write_report(arguments[2])).read_text()
    assert_tame(page)
    assert r"cannot\x1b[31mread \u202egpj.exe" in page and r"i\x1b]8;;" in page


@case("a log line about an error with escapes and a line end", "done")
def escapes_in_logs(scene: Scene) -> None:
    show_logs()
    show_logs()
    log = logging.getLogger("dstc.worker.row_outcome")
    try:
        raise ValueError(f"a{RED}\nb")
    except ValueError as error:
        log.warning("lease not renewed: %s", f"{LINK}\nlease renewed", exc_info=error)
    said = scene.capture.readouterr().err
    assert said.count("lease not renewed") == 1, "once, however often it is asked for"
    assert_tame(said)
    assert said.splitlines()[0].startswith(r"lease not renewed: \x1b]8;;")
    assert r"ValueError: a\x1b[31m" in said and "Traceback" in said.splitlines()[1]


# -- how it ended ---------------------------------------------------------------------------------


@case("every row of the manifest is rejected", "rejected: exit 3")
def all_rows_rejected(scene: Scene) -> None:
    outcomes = [Outcome(REJECTED, "missing_picture", "x")] * 6
    arguments = scene.finished_run(outcomes)
    code, said = scene.command(*arguments)
    assert code == 3
    assert "6 of 6 rows are rejected, more than --max-rejected 0.1" in said.splitlines()[-1]
    assert scene.command(*arguments, "--max-rejected", "1")[0] == 0
    assert scene.command(*arguments, "--max-rejected", "1.5")[0] == 2


@case("just as many rows are rejected as may be", "done")
def as_many_rejected_as_may_be(scene: Scene) -> None:
    outcomes = [Outcome(DONE)] * 9 + [Outcome(REJECTED, "bad_id", "x")]
    arguments = scene.finished_run(outcomes)
    assert scene.command(*arguments)[0] == 0
    assert scene.command(*arguments, "--max-rejected", "0.0999")[0] == 3
    assert scene.command(*arguments, "--max-rejected", "0")[0] == 3


@case(
    "`--retry rejected`: shards with rejected rows run again, those with failed ones stay", "kept"
)
def shards_with_rejected_rows_run_again(scene: Scene) -> None:
    outcomes = [Outcome(DONE)] * 4
    outcomes += [Outcome(FAILED, "fetch_error", "x")] * 4
    outcomes += [Outcome(REJECTED, "missing_picture", "x"), Outcome(DONE)]
    arguments = scene.finished_run(outcomes)
    for retry, to_do in (("rejected", "2 in 1 shards"), ("failed", "4 in 1 shards")):
        code, said = scene.command(*arguments, "--retry", retry, "--dry-run")
        assert code == 0 and to_do in said
    code, said = scene.command(*arguments)
    assert code == 3 and "--retry rejected" in said and "--retry failed" in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_being_told(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    TRIALS[case.name](Scene(tmp_path, capsys))


@given(st.text(st.characters()))
def test_whatever_a_text_holds_it_is_shown_and_stays_so(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable() and shown.isascii() >= text.isascii()
    assert visible(shown) == shown
    assert visible(text, keep="\n").replace("\n", "").isprintable()
    assert text.isprintable() == (shown == text)
    assert describe(ValueError(text)).isprintable()
