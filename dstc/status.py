"""`dstc status`: how far a run is, from its folder alone.

It works from any machine that can read the folder, while the job runs elsewhere and after it died.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dstc.driver.terminal import by_reason, console, facts_table, say_what_may_run_again
from dstc.errors import RunFolderError
from dstc.store import storage, urls
from dstc.store.ledger import Ledger, flagged_reasons, made_by
from dstc.store.pilot_record import read_pilot_record
from dstc.store.run_folder import RunFolder
from dstc.text import duration, redact, row_rate

# Four times what the driver takes between two notes. Clocks of two machines may differ by some.
_SILENT_AFTER_S = 60.0


@dataclass(frozen=True)
class Status:
    """A run at this moment.

    Attributes:
        output: the run folder. run_id: of the run.
        state: "running"; "finished"; "stopped" or "broken", which the same command continues;
            "silent" when its driver said last that it runs, and has said nothing for a minute;
            "new" when no driver has said anything yet.
        seconds_since: the driver spoke last; None when it never did.
        driver: "host, process" that spoke last.
        rows: of the run. rows_ended: of them, those of shards at work included while it runs.
        done, rejected, failed: rows of finished shards.
        rejected_reasons, failed_reasons: those rows by reason, most frequent first.
        flagged, flagged_reasons: of the rows that are done, those a gate flags, and by which.
        shards, shards_done: of the run; `shards` is 0 when no driver has said how many.
        rate: rows per second lately; None when it does not run or before there is one.
        seconds_left: at that rate.
        actors_running, actors_wanted: None when it does not run.
        actors_seen: processes that ever translated in this invocation; those beyond the wanted ones
            replaced dead ones, or joined a growing pool.
        occupancy: share of slots that hold a row, 0 .. 1; None when unknown.
        made_by: of the rows that are done, those by what made them; empty without a student.
        stage: of a run with `--pilot`: "pilot", whose rows the counts are then of; "distil"; or
            "translate". None without one.
    """

    output: str
    run_id: str
    state: str
    seconds_since: float | None
    driver: str | None
    rows: int
    rows_ended: int
    done: int
    rejected: int
    failed: int
    rejected_reasons: dict[str, int]
    failed_reasons: dict[str, int]
    flagged: int
    flagged_reasons: dict[str, int]
    shards: int
    shards_done: int
    rate: float | None
    seconds_left: float | None
    actors_running: int | None
    actors_wanted: int | None
    actors_seen: int | None
    occupancy: float | None
    made_by: dict[str, int] = field(default_factory=dict)
    stage: str | None = None


def read_status(output: str, now: float | None = None) -> Status:
    """Reads how far a run is.

    Args:
        output: the run folder, a local path or any fsspec URL.
        now: seconds since 1970; the clock's by default.

    Raises:
        RunFolderError: the folder holds no run.
        OSError: storage does not answer.
    """
    run = RunFolder(urls.folder(output))
    job = _read(run.job)
    now = time.time() if now is None else now
    progress = _read(run.progress) or {}
    if job is None:
        return _of_stage(run, progress, now)
    state, since, driver = _heard_of(progress, now)
    # While one stage follows another, only the driver has been heard of.
    is_running = state == "running" and "rows_ended" in progress
    counts = progress if is_running else _counts(run)
    return Status(
        output=redact(run.uri),
        run_id=str(job["run_id"]),
        state=state,
        seconds_since=since,
        driver=driver,
        rows=int(progress.get("rows", job["manifest"]["rows"])),
        rows_ended=int(counts["rows_ended"]),
        done=int(counts["done"]),
        rejected=int(counts["rejected"]),
        failed=int(counts["failed"]),
        rejected_reasons=_most_frequent_first(counts["rejected_reasons"]),
        failed_reasons=_most_frequent_first(counts["failed_reasons"]),
        # A driver of before there were gates tells of none.
        flagged=int(counts.get("flagged", 0)),
        flagged_reasons=_most_frequent_first(counts.get("flagged_reasons", {})),
        shards=int(progress.get("shards", 0)),
        shards_done=int(counts["shards_done"]),
        rate=progress["rate"] if is_running else None,
        seconds_left=progress["seconds_left"] if is_running else None,
        actors_running=progress["actors_running"] if is_running else None,
        actors_wanted=progress["actors_wanted"] if is_running else None,
        actors_seen=progress["actors_seen"] if is_running else None,
        occupancy=progress["occupancy"] if is_running else None,
        made_by=_most_frequent_first(counts.get("made_by", {})),
        stage="translate" if "pilot" in job.get("identity", {}) else None,
    )


def _heard_of(progress: Mapping[str, Any], now: float) -> tuple[str, float | None, str | None]:
    """State of a run, seconds since its driver spoke last, and which driver that was."""
    since = now - progress["updated"] if progress else None
    state = str(progress.get("state", "new"))
    if state == "running" and since is not None and since > _SILENT_AFTER_S:
        state = "silent"
    driver = progress.get("driver")
    return state, since, f"host {driver['host']}, process {driver['pid']}" if driver else None


def _of_stage(run: RunFolder, progress: Mapping[str, Any], now: float) -> Status:
    """A run with a pilot that has not come to its own rows yet.

    Raises:
        RunFolderError: the folder holds no run.
        OSError: storage does not answer.
    """
    record = read_pilot_record(run)
    if record is None:
        raise RunFolderError(
            f"output {redact(run.uri)}: no job.json found; expected the folder of a run"
        )
    found = _NOTHING_YET
    if record.stage == "pilot" and storage.exists(RunFolder(run.pilot_run).job):
        found = read_status(run.pilot_run, now)
    state, since, driver = _heard_of(progress, now)
    return dataclasses.replace(
        found,
        output=redact(run.uri),
        state=state,
        seconds_since=since,
        driver=driver,
        rows=record.rows if record.stage == "pilot" else record.all_rows,
        stage=record.stage,
    )


_NOTHING_YET = Status(
    output="", run_id="of a pilot", state="new", seconds_since=None, driver=None, rows=0,
    rows_ended=0, done=0, rejected=0, failed=0, rejected_reasons={}, failed_reasons={}, flagged=0,
    flagged_reasons={}, shards=0, shards_done=0, rate=None, seconds_left=None, actors_running=None,
    actors_wanted=None, actors_seen=None, occupancy=None,
)  # fmt: skip


def _counts(run: RunFolder) -> dict[str, Any]:
    """What the finished shards hold, whatever the last driver knew of them."""
    ledger = Ledger.open(run)
    ledger.complete(run.part_sizes())
    totals = ledger.totals()
    rejected, failed = totals.get("rejected", Counter()), totals.get("failed", Counter())
    done, flagged = totals["done"].total(), flagged_reasons(totals)
    return {
        "rows_ended": done + rejected.total() + failed.total(),
        "done": done,
        "rejected": rejected.total(),
        "failed": failed.total(),
        "rejected_reasons": {str(reason): rows for reason, rows in rejected.items()},
        "failed_reasons": {str(reason): rows for reason, rows in failed.items()},
        "flagged": sum(flagged.values()),
        "flagged_reasons": flagged,
        "made_by": made_by(totals),
        "shards_done": len(ledger),
    }


def _most_frequent_first(reasons: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(reasons).most_common())


def _read(uri: str) -> dict[str, Any] | None:
    try:
        found = json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise RunFolderError(f"{redact(uri)}: not a file of this program ({error})") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{redact(uri)}: not a file of this program")
    return found


_STATES = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped; the same command continues",
    "broken": "broken; the same command continues",
    "silent": "its driver has fallen silent; the same command continues, once it is surely gone",
    "new": "no driver has said anything yet",
}


_STAGES = {
    "pilot": "1 of 3: the pilot's rows, guided",
    "distil": "2 of 3: a student learns from them",
    "translate": "3 of 3: all rows by the student",
}


def print_status(status: Status) -> None:
    """What `dstc status` shows."""
    table = facts_table("Run " + status.run_id)
    since = f", heard of {duration(status.seconds_since)} ago" if status.seconds_since else ""
    table.add_row("state", _STATES.get(status.state, status.state))
    if status.stage:
        table.add_row("stage", _STAGES[status.stage])
    if status.driver and status.state != "finished":
        table.add_row("driver", status.driver + since)
    share = status.rows_ended / status.rows if status.rows else 1.0
    table.add_row("rows", f"{status.rows_ended:,} of {status.rows:,} ({share:.1%})")
    table.add_row("done", f"{status.done:,}{by_reason(status.made_by)}")
    if status.flagged:
        table.add_row("  flagged", f"{status.flagged:,}{by_reason(status.flagged_reasons)}")
    table.add_row("rejected", f"{status.rejected:,}{by_reason(status.rejected_reasons)}")
    table.add_row("failed", f"{status.failed:,}{by_reason(status.failed_reasons)}")
    of_all = f" of {status.shards:,}" if status.shards else ""
    table.add_row("shards", f"{status.shards_done:,}{of_all} finished")
    if status.rate and status.seconds_left is not None:
        end = datetime.datetime.now() + datetime.timedelta(seconds=status.seconds_left)
        left = f"{duration(status.seconds_left)} left, until {end:%Y-%m-%d %H:%M}"
        table.add_row("rate", f"{row_rate(status.rate)}; {left}")
    if status.actors_wanted is not None:
        actors = f"{status.actors_running} running, {status.actors_wanted} wanted"
        table.add_row("actors", f"{actors}, {status.actors_seen} seen")
    if status.occupancy is not None:
        table.add_row("slots busy", f"{status.occupancy:.0%}")
    if status.state == "finished":
        say_what_may_run_again(table, status.failed, status.rejected, status.flagged)
    console().print(table)
