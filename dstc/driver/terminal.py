"""Terminal output of a run: the plan, the progress line, how it ended."""

from __future__ import annotations

import math
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.highlighter import ReprHighlighter
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dstc.driver.lease import expires_after
from dstc.driver.summary import Summary
from dstc.store.run_folder import RunFolder
from dstc.text import duration, row_rate, visible

if TYPE_CHECKING:
    from dstc.driver.monitor import Monitor
    from dstc.driver.pace import Pace
    from dstc.planning.cost import Estimate
    from dstc.planning.plan import Plan
    from dstc.planning.settings import Settings
    from dstc.worker.row_count import Snapshot
    from dstc_engine.step_memory import StepMemory

_BAR_EVERY_S = 0.5
_BAR_WIDTH = 20  # beside the longest text, on a terminal of 80 columns or a little more
_LINE_EVERY_S = 5.0
_SHOWN_PARTS = 10
# Sizes of common cards: L4 and A10G, L40S, A100 and H100, H200.
_CARDS_GIB = (24, 48, 80, 141)


def print_plan(
    plan: Plan, expected: Estimate | None, device: str, memory: StepMemory | None = None
) -> None:
    """What `--dry-run` shows.

    Args:
        plan: of the run.
        expected: what its rows will cost; None where there are none to do, or no networks.
        device: "cuda" or "cpu", for which that was estimated.
        memory: of a step on a GPU; None where it is not known, and on CPUs.
    """
    settings, manifest = plan.settings, plan.manifest
    preset = settings.resolved_preset
    table = facts_table("Plan (nothing was run or written)")
    rows = f"{manifest.rows:,} in {manifest.shards:,} shards of up to {manifest.rows_per_shard}"
    table.add_row("manifest", manifest.uri)
    table.add_row("rows", rows)
    table.add_row("to do", f"{manifest.rows - plan.rows_done:,} in {len(plan.pending):,} shards")
    if plan.job.appends_to is not None:
        table.add_row("appended", _appended_text(plan))
    if len(plan.duplicates.rows):
        table.add_row("duplicate ids", f"{len(plan.duplicates.rows):,} rows will be rejected")
    if settings.samples_per_row > 1:
        table.add_row("images", f"{settings.samples_per_row} of each row")
    table.add_row("output", f"{plan.job.run.uri} ({'new' if plan.is_new else 'continued'})")
    table.add_row("preset", f"{preset.name}, {preset.image_size} x {preset.image_size} pixels")
    for field, value in sorted(settings.set.items()):
        table.add_row("", f"{field} = {value}")
    actors = settings.actors or "one for each GPU, or core up to 4"
    slots = f"{settings.slots} slots"
    if settings.auto_slots and device == "cuda":
        slots = "slots measured at the start, on one GPU of each kind"
    table.add_row("actors", f"{actors}; {slots}, {settings.precision}")
    if memory is not None:
        table.add_row("GPU memory", _memory_text(memory, settings))
    for weights in plan.weights:
        table.add_row("weights", f"{weights.name} ({weights.sha256}, {weights.licence})")
    if expected is not None:
        unit = "GPU" if device == "cuda" else "core"
        hours = f"{expected.device_hours:,.3g} {unit}-hours"
        if settings.actor_range:
            fewest, most = settings.actor_range
            hours += f", {duration(3600 * expected.hours(most))} on {most:,}"
            if fewest != most:
                hours += f", {duration(3600 * expected.hours(fewest))} on {fewest:,}"
        table.add_row("expected", f"{hours}; starting up not included")
        table.add_row("", f"({expected.basis})")
    table.add_row("fingerprint", plan.job.fingerprint[:16])
    console().print(table)


def _memory_text(memory: StepMemory, settings: Settings) -> str:
    holds = ", ".join(f"{memory.slots_on(size << 30)} on {size} GiB" for size in _CARDS_GIB)
    text = f"slots that fit: about {holds}"
    if settings.auto_slots:
        return text
    return (
        f"about {memory.peak(settings.slots) / 2**30:.1f} GiB with {settings.slots} slots; {text}"
    )


def print_appended(plan: Plan) -> None:
    """Prints how many rows are new to the run, on stderr; nothing where none is appended."""
    if plan.job.appends_to is not None:
        print(f"append: {_appended_text(plan)}", file=sys.stderr, flush=True)


def _appended_text(plan: Plan) -> str:
    kept = plan.job.rows_kept
    return f"{plan.manifest.all_rows - kept:,} rows without a result; {kept:,} have one and stay"


def print_waiting(holder: str) -> None:
    """Prints that another driver may be at work on the folder."""
    print(
        f"another driver ({visible(holder)}) has the output folder; waiting up to "
        f"{expires_after():.0f} s to see whether it is alive",
        file=sys.stderr,
        flush=True,
    )


def print_no_conditions(output: str) -> None:
    """Prints that this storage cannot keep two drivers apart with certainty."""
    print(
        f"output {visible(output)}: this storage ignores conditions of writes, so two drivers that "
        "start within the same second may both work; start one at a time",
        file=sys.stderr,
        flush=True,
    )


def print_damaged(plan: Plan) -> None:
    """Names the parts that count as missing, on stderr."""
    for why in plan.damaged[:_SHOWN_PARTS]:
        print(f"damaged: {visible(why)}; the shard runs again", file=sys.stderr, flush=True)
    if (more := len(plan.damaged) - _SHOWN_PARTS) > 0:
        print(f"damaged: {more:,} more parts; `dstc verify` names all", file=sys.stderr, flush=True)


def print_closing(
    summary: Summary, run: RunFolder, max_rejected: float = 1.0, quiet: bool = False
) -> None:
    """Prints how the run ended, and where its results are.

    Args:
        max_rejected: share of rows, 0 .. 1; that more are rejected is said last.
        quiet: say that alone.
    """
    if not quiet:
        console().print(_closing(summary, run))
    if summary.rejected_share > max_rejected:
        print(
            f"{summary.rejected:,} of {summary.rows:,} rows are rejected, more than "
            f"--max-rejected {max_rejected:g}: exit code 3",
            file=sys.stderr,
            flush=True,
        )


def _closing(summary: Summary, run: RunFolder) -> Table:
    table = facts_table("Run " + summary.run_id)
    table.add_row("done", f"{summary.done:,}{by_reason(summary.made_by)}")
    if summary.flagged:
        table.add_row("  flagged", f"{summary.flagged:,}{by_reason(summary.flagged_reasons)}")
    table.add_row("rejected", f"{summary.rejected:,}{by_reason(summary.rejected_reasons)}")
    table.add_row("failed", f"{summary.failed:,}{by_reason(summary.failed_reasons)}")
    if summary.rows_run:
        took = f"{summary.rows_run:,} rows in {duration(summary.seconds)}"
        table.add_row("this time", f"{took}, starting included: {row_rate(summary.rate)}")
    table.add_row("results", run.results)
    table.add_row("report", f"dstc report {run.uri}")
    say_what_may_run_again(table, summary.failed, summary.rejected, summary.flagged)
    return table


def say_what_may_run_again(table: Table, failed: int, rejected: int, flagged: int) -> None:
    if failed:
        table.add_row("again", "the same command with --retry failed")
    if rejected:
        table.add_row("again", "with --retry rejected, once what those rows lack is there")
    if flagged:
        table.add_row("again", "with --retry flagged: another seed, the better image is kept")


def console() -> Console:
    console = Console()
    # Logs have no width: paths stay whole there, to be copied.
    return console if console.is_terminal else Console(width=400)


class _Facts(Table):
    """A table whose cells are what they say: `out[/b]` is a path, no markup of Rich."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(_highlighted(visible(str(cell))) for cell in cells), **options)


_highlighted = ReprHighlighter()


def facts_table(title: str) -> Table:
    table = _Facts(
        title=Text(visible(title)),
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def by_reason(reasons: dict[str, int]) -> str:
    counts = ", ".join(f"{reason} {number:,}" for reason, number in reasons.items())
    return f" ({counts})" if counts else ""


class ProgressLine:
    """Shows rows ended, rate and time left, while its `with` block runs.

    A bar on a terminal; elsewhere one line every few seconds, so that logs stay readable.

    Args:
        rows: of the whole run.
        monitor: knows how many have ended.
    """

    def __init__(self, rows: int, monitor: Monitor) -> None:
        self._rows = rows
        self._monitor = monitor
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
        columns = (BarColumn(_BAR_WIDTH), TextColumn("{task.description}"))
        with Progress(*columns, console=console) as bar:
            done = int(self._monitor.pace.rows_done)
            task = bar.add_task(self._text(), total=self._rows, completed=done)
            stopped = False
            while not stopped:
                stopped = self._stop.wait(_BAR_EVERY_S)
                bar.update(task, completed=self._monitor.pace.rows_done, description=self._text())

    def _show_lines(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(_LINE_EVERY_S)
            print(self._text(), file=sys.stderr, flush=True)

    def _text(self) -> str:
        monitor = self._monitor
        return progress_text(
            self._rows, monitor.pace, monitor.snapshot, monitor.actors_wanted, monitor.actors_needed
        )


def progress_text(
    rows: int, pace: Pace, snapshot: Snapshot | None, actors_wanted: int, actors_needed: int
) -> str:
    """Text of the progress line.

    Args:
        rows: of the run. pace: of it. snapshot: the latest, or None before the first.
        actors_wanted: that the run starts with. actors_needed: of them, for the shards left.

    Returns:
        For example "3/8 rows (56.2%), 0.053 row/s, 1 min 06 s left".
    """
    # Rounded down: 100 % is for the end. Rows half done are in the percentage alone.
    percent = math.floor(1000 * pace.rows_done / rows) / 10
    text = f"{pace.rows_ended:,}/{rows:,} rows ({percent:.1f}%)"
    is_over = pace.rows_ended == rows
    if not is_over and (snapshot is None or not snapshot.workers):
        if snapshot is not None and snapshot.workers_seen and not snapshot.starts:
            return f"{text}, no word from the actors for some seconds"
        return f"{text}, starting {actors_wanted} {'actor' if actors_wanted == 1 else 'actors'}"
    if pace.rate is not None:
        text += f", {row_rate(pace.rate)}"
    elif not is_over:
        text += ", first rows under way" if snapshot and snapshot.actors_at_work else ", started"
    if pace.seconds_left is not None and not is_over:
        text += f", {duration(pace.seconds_left)} left"
    if snapshot is not None and snapshot.workers < actors_needed:
        text += f", {snapshot.workers} of {actors_wanted} actors"
    return text
