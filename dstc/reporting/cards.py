"""The gallery of a report: a card for each result row, with its images and loss curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from markupsafe import Markup

from dstc.errors import StorageError
from dstc.reporting import charts
from dstc.reporting.beside import Beside
from dstc.reporting.flags import FLAGGED, flags_of
from dstc.reporting.texts import text_of
from dstc.reporting.throughput import finite
from dstc.reporting.thumbnails import MAX_SIDE, Thumbnail, Thumbnails
from dstc.store import urls
from dstc.store.input_policy import STRICT, InputPolicy
from dstc.store.json_record import Record
from dstc.store.ledger import MADE_BY
from dstc.store.manifest import TEXT_COLUMNS
from dstc.store.manifest_files import folder_by_name, manifest_folder
from dstc.store.results import RESERVED_COLUMNS
from dstc.store.run_folder import RunFolder
from dstc.text import shown

# Up to so many images are inlined with such a side: a page of 200 rows of photographs stays below
# ten megabytes. The first line is as large as they are ever shown.
_SIDES = ((192, MAX_SIDE), (700, 160), (math.inf, 112))
# Above so many rows, fewer further images of a row are shown.
_MANY_CARDS = 64
_SAMPLES, _FEW_SAMPLES = 11, 3
_THREADS = 8
# How the names of metrics and of losses begin among what cards are sorted by.
METRIC, LOSS = "metric ", "loss "


@dataclass(frozen=True)
class Plot:
    """A loss curve: its name, its weight in the preset where it has one, its SVG."""

    name: str
    weight: str | None
    svg: Markup


@dataclass(frozen=True)
class Card:
    """One result row.

    Attributes:
        id, status, reason, error, prompt, source_prompt: of the row; empty where it has none.
        content, style, result: images; None where the row names none.
        samples: (number, seed, image) of the first few further results. more_samples: how many
            there are beyond them.
        beside: what another run made of the row, or why nothing; None without another run.
            beside_caption: which run, what made the image, its flags.
        flags: why the row is doubtful. metrics: (name, text) of what was measured.
        facts: steps and so on. details: seed, URIs and the columns that travelled along.
        plots: the losses that were computed. resampled: steps at the start that repeat the first.
        search: what a search looks through, in lower case.
        sort_values: what cards are sorted by: seconds, restarts, metrics, and each loss at its last
            step.
    """

    id: str
    status: str
    reason: str
    error: str
    prompt: str
    source_prompt: str
    content: Thumbnail | None
    style: Thumbnail | None
    result: Thumbnail | None
    samples: Sequence[tuple[int, int, Thumbnail]]
    more_samples: int
    flags: Sequence[str]
    metrics: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, str]]
    details: Sequence[tuple[str, str]]
    plots: Sequence[Plot]
    resampled: int
    search: str
    sort_values: Mapping[str, float]
    beside: Thumbnail | None = None
    beside_caption: str = ""


def make_cards(
    run: RunFolder,
    job: Record,
    rows: Sequence[Mapping[str, Any]],
    measures: Sequence[Mapping[str, float]] | None = None,
    inputs: InputPolicy = STRICT,
    page_folder: str | None = None,
    beside: Beside | None = None,
) -> list[Card]:
    """Cards of result rows, in their order.

    Args:
        measures: the metrics of each row, by name; None where there are none.
        inputs: what the URIs of rows may name; local files also where run and manifest lie here.
        page_folder: where the page will lie, for links to files; None where it lies nowhere.
        beside: another run, whose image of each row the card shows too.
    """
    size = finite(job.part("preset").get("image_size"))
    fit = "pad" if job.part("preset").get("fit") == "pad" else "crop"
    most = _SAMPLES if len(rows) <= _MANY_CARDS else _FEW_SAMPLES
    thumbnails = Thumbnails(
        _side(rows, most, beside),
        int(size) if size is not None and 1 <= size <= 4096 else None,
        fit,
        inputs_of(run, job, inputs),
        page_folder,
    )
    folder = relative_to(job)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(
            pool.map(
                lambda row, of_row: _make_card(
                    run, job, row, of_row, thumbnails, folder, most, beside
                ),
                rows,
                [{}] * len(rows) if measures is None else measures,
            )
        )


def _side(
    rows: Sequence[Mapping[str, Any]], most_samples: int, beside: Beside | None = None
) -> int:
    """Pixels of the longer side of each image, by how many there are."""
    images = sum(
        sum(bool(row.get(name)) for name in ("content", "style", "image"))
        + min(len(row.get("samples") or ()), most_samples)
        + bool(beside and beside.image_of(text_of(row.get("id"))))
        for row in rows
    )
    return next(side for many, side in _SIDES if images <= many)


def _make_card(
    run: RunFolder,
    job: Record,
    row: Mapping[str, Any],
    measures: Mapping[str, float],
    thumbnails: Thumbnails,
    folder: str | None,
    most_samples: int,
    beside: Beside | None,
) -> Card:
    text = {name: text_of(row.get(name)) for name in (*TEXT_COLUMNS, "status", "reason", "error")}
    losses = [step for step in row.get("losses") or [] if step]
    resampled = len(list(takewhile(lambda step: step.get("phase") == "resample", losses)))

    def input_of(column: str) -> Thumbnail | None:
        uri = row.get(column)
        if not isinstance(uri, str) or not uri:
            return None
        if folder is None and not (urls.is_url(uri) or uri.startswith("/")):
            return Thumbnail(problem="where the manifest lies is unknown")
        return thumbnails.input(urls.resolve(uri, folder or ""))

    def result_of(name: str, of: RunFolder = run) -> Thumbnail:
        try:
            return thumbnails.result(urls.inside(of.uri, name))
        except StorageError:
            return Thumbnail(problem="a path that leads out of the run folder")

    def beside_of(other: Beside) -> Thumbnail:
        image = other.image_of(text["id"])
        if image is None:
            return Thumbnail(problem=other.why_none(text["id"]))
        return result_of(image, other.run)

    image = row.get("image")
    result = result_of(image) if isinstance(image, str) else None
    samples = [sample for sample in row.get("samples") or [] if sample]
    return Card(
        id=text["id"],
        status=text["status"],
        reason=text["reason"],
        error=text["error"],
        prompt=text["prompt"],
        source_prompt=text["source_prompt"],
        content=input_of("content"),
        style=input_of("style"),
        result=result,
        samples=[(s["sample"], s["seed"], result_of(s["image"])) for s in samples[:most_samples]],
        more_samples=max(0, len(samples) - most_samples),
        flags=flags_of(row.get(FLAGGED)),
        metrics=[(name, charts.number(value)) for name, value in measures.items()],
        facts=_facts(row),
        details=_details(row),
        plots=list(_plots(losses, resampled, job.part("preset"))),
        resampled=resampled,
        search=" ".join(
            text[name] for name in ("id", "prompt", "source_prompt", "status", "reason", "error")
        ).lower(),
        sort_values=_sort_values(row, losses, measures),
        beside=beside_of(beside) if beside else None,
        beside_caption=beside.caption_of(text["id"]) if beside else "",
    )


def inputs_of(run: RunFolder, job: Record, inputs: InputPolicy) -> InputPolicy:
    """What rows may name here: neither a run nor a manifest of elsewhere names local files."""
    manifest = job.part("manifest").get("of") or job.part("manifest").get("uri")
    if isinstance(manifest, str) and urls.local_path(run.uri) is not None:
        return inputs.for_manifest(manifest)
    return inputs.for_manifest(run.uri)


def relative_to(job: Record) -> str | None:
    """What relative URIs of a run's rows start at: the folder of its manifest."""
    uri = job.part("manifest").get("uri")
    if not isinstance(uri, str):
        return None
    try:
        return manifest_folder(uri)
    except Exception:  # the manifest may be out of reach from here
        return folder_by_name(uri)


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if row.get("steps"):  # else it never came into a slot
        facts = [(name, f"{finite(row.get(name)) or 0:,.0f}") for name in ("steps", "restarts")]
        facts.append(("seconds", f"{finite(row.get('seconds')) or 0:,.2f}"))
        if row.get("retries"):
            facts.append(("other seeds tried", f"{finite(row['retries']) or 0:,.0f}"))
    if row.get(MADE_BY):
        facts.append(("made by", shown(row[MADE_BY])))
    return facts


def _sort_values(
    row: Mapping[str, Any],
    losses: Sequence[Mapping[str, Any]],
    measures: Mapping[str, float],
) -> dict[str, float]:
    if not row.get("steps"):  # it never came into a slot: its zeros are not the best
        return {}
    values = {name: row.get(name) for name in ("seconds", "restarts")}
    values |= {f"{METRIC}{name}": value for name, value in measures.items()}
    last = losses[-1] if losses else {}
    values |= {f"{LOSS}{name}": last[name] for name in last if name not in ("index", "phase")}
    return {name: known for name, value in values.items() if (known := finite(value)) is not None}


def _details(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    first = ("seed", "content", "style", "mask", "image", "image_sha256")
    known = {*first, *TEXT_COLUMNS, *RESERVED_COLUMNS, "shard", "offset"}
    if isinstance(row.get(FLAGGED), str):
        known.add(FLAGGED)
    names = [*first, *(name for name in row if name not in known), "shard"]
    return [(name, shown(row[name])) for name in names if row.get(name) is not None]


def _plots(
    losses: Sequence[Mapping[str, Any]], resampled: int, preset: Mapping[str, Any]
) -> Iterable[Plot]:
    names = [name for name in losses[0] if name not in ("index", "phase")] if losses else []
    for name in names:
        values = [_loss(step.get(name)) for step in losses]
        svg = charts.line_plot(f"loss {name} by guided step", values, shaded=resampled)
        if svg is not None:
            weight = finite(preset.get(f"weight_{name}"))
            yield Plot(name, None if weight is None else f"{weight:g}", svg)


def _loss(value: object) -> float:
    number = finite(value)
    return math.nan if number is None else number
