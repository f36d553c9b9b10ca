"""What a run says on the terminal: the plan, its progress, how it ended."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from jobs.closing import Summary
from jobs.store.run_folder import RunFolder

if TYPE_CHECKING:
    from jobs.translate import Plan

_BAR_EVERY_S = 0.5
_LINE_EVERY_S = 10.0


def print_plan(plan: Plan) -> None:
    """What `--dry-run` shows."""
    settings, manifest = plan.settings, plan.manifest
    preset = settings.resolved_preset
    table = _facts("Plan (nothing was run or written)")
    rows = f"{manifest.rows:,} in {manifest.shards:,} shards of up to {manifest.rows_per_shard}"
    table.add_row("manifest", manifest.uri)
    table.add_row("rows", rows)
    table.add_row("to do", f"{manifest.rows - plan.rows_done:,} in {len(plan.pending):,} shards")
    if len(plan.duplicates.rows):
        table.add_row("duplicate ids", f"{len(plan.duplicates.rows):,} rows will be rejected")
    table.add_row("output", f"{plan.job.run.uri} ({'new' if plan.is_new else 'continued'})")
    table.add_row("preset", f"{preset.name}, {preset.image_size} x {preset.image_size} pixels")
    for field, value in sorted(settings.set.items()):
        table.add_row("", f"{field} = {value}")
    actors = settings.actors or "one for each GPU, or core up to 4"
    table.add_row("actors", f"{actors}; {settings.slots} slots, {settings.precision}")
    for weights in plan.weights:
        table.add_row("weights", f"{weights.name} ({weights.sha256}, {weights.licence})")
    table.add_row("fingerprint", plan.job.fingerprint[:16])
    _console().print(table)


def print_closing(summary: Summary, run: RunFolder) -> None:
    """How the run ended, and where its results are."""
    table = _facts("Run " + summary.run_id)
    table.add_row("done", f"{summary.done:,}")
    table.add_row("rejected", f"{summary.rejected:,}{_by_reason(summary.rejected_reasons)}")
    table.add_row("failed", f"{summary.failed:,}{_by_reason(summary.failed_reasons)}")
    if summary.rows_run:
        took = f"{summary.rows_run:,} rows in {_duration(summary.seconds)}"
        table.add_row("this time", f"{took}, {summary.rate:.2f} row/s")
    table.add_row("results", run.results)
    table.add_row("report", f"dstc report {run.uri}")
    if summary.failed:
        table.add_row("again", "the same command with --retry failed")
    _console().print(table)


def _console() -> Console:
    console = Console()
    # Logs have no width: paths stay whole there, to be copied.
    return console if console.is_terminal else Console(width=400)


def _facts(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _by_reason(reasons: dict[str, int]) -> str:
    told = ", ".join(f"{reason} {number:,}" for reason, number in reasons.items())
    return f" ({told})" if told else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class ProgressLine:
    """Shows rows ended, rate and time left, while its `with` block runs.

    A bar on a terminal; elsewhere one line every ten seconds, so that logs stay readable.

    Args:
        rows: of the whole run. rows_done: before this invocation.
        row_count: a `progress.RowCount` actor.
    """

    def __init__(self, rows: int, rows_done: int, row_count: Any) -> None:
        self._rows = rows
        self._rows_done = rows_done
        self._row_count = row_count
        self._ended = rows_done
        # The first rows end after Ray and the networks have started: a rate counts from there on.
        self._first: tuple[float, int] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> ProgressLine:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        console = Console(stderr=True)
        if console.is_terminal:
            self._show_bar(console)
        else:
            self._show_lines()

    def _show_bar(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=self._rows, completed=self._ended, told="starting")
            stopped = False
            while not stopped:
                stopped = self._stop.wait(_BAR_EVERY_S)
                self._look()
                bar.update(task, completed=self._ended, told=self._rate_and_time_left())

    def _show_lines(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(_LINE_EVERY_S)
            self._look()
            told = f"{self._ended:,}/{self._rows:,} rows, {self._rate_and_time_left()}"
            print(told, file=sys.stderr, flush=True)

    def _look(self) -> None:
        try:
            counted = ray.get(self._row_count.total.remote(), timeout=5)
        except ray.exceptions.RayError:
            return  # a count that does not answer stops the bar, never the run
        self._ended = min(self._rows, self._rows_done + counted)

    def _rate_and_time_left(self) -> str:
        now = time.monotonic()
        if self._first is None:
            if self._ended == self._rows_done:
                return "starting"
            self._first = now, self._ended
        since, ended = self._first
        if self._ended == ended:
            return "started"
        rate = (self._ended - ended) / (now - since)
        return f"{rate:.2f} row/s, {_duration((self._rows - self._ended) / rate)} left"
