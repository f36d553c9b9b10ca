"""Data of a report's page, as the template reads it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dstc.reporting.beside import Beside
from dstc.reporting.cards import LOSS, METRIC, Card, Plot
from dstc.reporting.chosen import Chosen
from dstc.reporting.looks import Look
from dstc.reporting.loss_bands import Bands
from dstc.reporting.metrics_table import MetricsTable, better
from dstc.reporting.paired import Paired
from dstc.reporting.tally import Miss, Reason, Tally
from dstc.reporting.texts import rows_of
from dstc.reporting.throughput import Throughput, finite
from dstc.store.json_record import Record
from dstc.store.results import DONE, FAILED, REJECTED, STATUSES
from dstc.text import redact, shown


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    name: str
    output: str
    written: datetime.datetime
    job: Record
    summary: Record
    is_finished: bool
    notes: Sequence[str]
    tally: Tally
    expected: int | None
    cards: Sequence[Card]
    chosen: Chosen
    metrics: MetricsTable
    looks: Sequence[Look]
    looks_in_all: int
    look_plots: Sequence[tuple[Look, Sequence[Plot]]]
    bands: Bands
    band_plots: Sequence[Plot]
    throughput: Throughput
    rate_plot: Markup | None
    occupancy_plot: Markup | None
    beside: Beside | None = None
    paired: Paired | None = None

    @property
    def run_id(self) -> str:
        """Names the run in logs."""
        return self.job.text("run_id") or self.summary.text("run_id")

    @property
    def created(self) -> str:
        """When the run was first started."""
        text = self.job.text("created") or "unknown"
        return re.sub(r"(\d)T(\d.*)Z", r"\1 \2 UTC", text)

    @property
    def preset(self) -> Mapping[str, Any]:
        """The preset in full."""
        return self.job.part("preset")

    @property
    def settings(self) -> list[tuple[str, str]]:
        """The settings but the preset, which has its own table."""
        return rows_of(self.job.part("settings"))

    @property
    def preset_rows(self) -> list[tuple[str, str, bool]]:
        """The preset's fields, and whether `--set` changed them."""
        changed = self.job.part("settings").get("set")
        names = changed if isinstance(changed, dict) else {}
        return [(name, text, name in names) for name, text in rows_of(self.preset)]

    @property
    def weights(self) -> list[Mapping[str, Any]]:
        """Records of the networks' weights."""
        weights = self.job.values.get("weights")
        records = weights if isinstance(weights, list) else []
        return [
            {
                name: redact(value) if isinstance(value, str) else value
                for name, value in record.items()
            }
            for record in records
            if isinstance(record, dict)
        ]

    @property
    def manifest(self) -> list[tuple[str, str]]:
        """What was translated."""
        values = dict(self.job.part("manifest"))
        columns = values.pop("columns", None)
        files = values.pop("files", None)
        rows = rows_of(values)
        if isinstance(columns, dict):
            rows += [("columns", ", ".join(f"{n} ({shown(t)})" for n, t in columns.items()))]
        if isinstance(files, dict):
            some = ", ".join(list(files)[:5]) + (", ..." if len(files) > 5 else "")
            rows += [("files", f"{len(files):,}: {redact(some)}")]
        appends = self.job.values.get("appends")
        if isinstance(appends, list) and appends and isinstance(appends[0], dict):
            began = shown(appends[0].get("rows_before"))
            rows += [("appended", f"{len(appends):,} times; the run began with {began} rows")]
        return rows

    @property
    def other_facts(self) -> list[tuple[str, str]]:
        """What else job.json and summary.json tell in one line."""
        apart = {"settings", "preset", "weights", "manifest", "identity", "order", "appends"}
        job = [(k, v) for k, v in self.job.values.items() if k not in apart]
        summary = [(f"summary: {key}", value) for key, value in self.summary.values.items()]
        return rows_of(dict(job + summary))

    @property
    def rate(self) -> float | None:
        """Rows per second of the last command, else of all shards."""
        return finite(self.summary.values.get("rate")) or self.throughput.rate

    @property
    def remaining(self) -> int:
        """Rows that have no result yet, as far as is known."""
        return max(0, (self.expected or 0) - self.tally.rows)

    @property
    def segments(self) -> list[tuple[str, int, float]]:
        """(status, rows, share of all) of the bar at the top; other statuses are left out."""
        counts = [(status, self.tally.counts[status]) for status in STATUSES]
        counts.append(("remaining", self.remaining))
        whole = sum(count for _, count in counts)
        return [(name, count, count / whole) for name, count in counts if count]

    @property
    def reasons(self) -> list[Reason]:
        """Rows that have no image, by reason: those that may be tried again first, many first."""
        order = {FAILED: 0, REJECTED: 1}
        return sorted(
            self.tally.reasons.values(),
            key=lambda reason: (order.get(reason.status, 2), -reason.count, reason.reason),
        )

    @property
    def misses(self) -> list[Miss]:
        """Rows that have no image, one by one."""
        return self.tally.named_misses()

    @property
    def missed(self) -> int:
        """Rows that have no image."""
        return self.tally.rows - self.tally.counts[DONE]

    @property
    def card_counts(self) -> list[tuple[str, int]]:
        """Cards by status, those statuses that occur."""
        found = dict.fromkeys([*STATUSES, *(card.status for card in self.cards)])
        counts = [(status, sum(card.status == status for card in self.cards)) for status in found]
        return [(status, count) for status, count in counts if count]

    @property
    def card_reasons(self) -> list[str]:
        """Reasons that occur among the cards."""
        return sorted({card.reason for card in self.cards if card.reason})

    @property
    def card_flags(self) -> list[str]:
        """Flags that occur among the cards."""
        return sorted({flag for card in self.cards for flag in card.flags})

    @property
    def flags(self) -> list[tuple[str, int]]:
        """Flags and how many rows have them, frequent ones first."""
        return sorted(self.tally.flags.items(), key=lambda flag: (-flag[1], flag[0]))

    @property
    def sort_groups(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """What cards can be sorted by: title -> (key, name, which way is better or empty)."""
        keys = list(dict.fromkeys(name for card in self.cards for name in card.sort_values))
        metrics = [(key, name, better(name)) for key, name in _named(keys, METRIC)]
        losses = [(key, name, "lower") for key, name in _named(keys, LOSS)]
        others = [(key, key, "") for key in keys if not key.startswith((METRIC, LOSS))]
        groups = [("Metrics", metrics), ("Last losses", losses), ("Cost", others)]
        return [(title, names) for title, names in groups if names]

    @property
    def look_metrics(self) -> list[str]:
        """Metrics that any look has."""
        return list(dict.fromkeys(name for look in self.looks for name in look.sums))

    @property
    def look_makers(self) -> list[str]:
        """What made images of any look, such as a student; empty where no student had a part."""
        return sorted({name for look in self.looks for name in look.made_by})

    @property
    def shown_rows(self) -> str:
        """Which rows the gallery shows."""
        shown, chosen = len(self.cards), self.chosen
        if not shown:
            return "no rows yet"
        if chosen.rows <= shown:
            return f"all {shown:,} rows that ended"
        text = f"{shown:,} of {chosen.rows:,} rows: {chosen.spread:,} evenly spread"
        others = ["examples of each reason"] if self.tally.reasons else []
        others += ["examples of each flag"] if self.tally.flags else []
        if chosen.ranked:
            by = "each metric" if len(chosen.ranked) > 1 else chosen.ranked[0]
            others.append(f"the worst and the best by {by}")
        return ", ".join([text, *others[:-1]]) + (f" and {others[-1]}" if others else "")


def _named(keys: Sequence[str], prefix: str) -> list[tuple[str, str]]:
    return [(key, key.removeprefix(prefix)) for key in keys if key.startswith(prefix)]
