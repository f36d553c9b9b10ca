"""`dstc report`: one self-contained HTML page about a run, finished or not.

    job.json, summary.json -> what the run is       reporting.record
    results/*.parquet      -> counts, chosen rows   reporting.tally, .chosen, .parts
    losses                 -> bands over rows       reporting.loss_bands
    metrics.json, metrics/ -> what was measured     reporting.metrics_table, .measures
    style and prompt       -> the same by look      reporting.looks
    images, losses       -> cards                 reporting.cards, .thumbnails, .charts
    another run          -> the same rows there   reporting.beside, .paired
    stats/*.json           -> speed                 reporting.throughput
    all of it              -> the page              reporting.page, report.html.j2, report.js

`write_report` puts it beside the results, `reporting.server` shows it and writes nothing.

Whatever is missing or cannot be read is said on the page. All texts come from users and are escaped
by the template; URLs lose their queries, which may be signatures.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import hashlib
import os
import posixpath
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dstc.errors import RunFolderError, SettingsError, StorageError
from dstc.reporting import charts
from dstc.reporting.beside import Beside, read_beside
from dstc.reporting.cards import Plot, make_cards
from dstc.reporting.chosen import choose
from dstc.reporting.contact_sheet import MOST_ROWS, contact_sheet
from dstc.reporting.last_losses import find_last_extremes
from dstc.reporting.looks import read_looks
from dstc.reporting.loss_bands import Bands, read_bands
from dstc.reporting.measures import find_extremes, measures_of
from dstc.reporting.metrics_table import make_table
from dstc.reporting.page import Page
from dstc.reporting.paired import Paired, pair
from dstc.reporting.parts import Numbering, read_rows
from dstc.reporting.server import ReportServer
from dstc.reporting.tally import Tally, count_rows
from dstc.reporting.texts import moment, percent
from dstc.reporting.throughput import Throughput, finite, read_throughput
from dstc.store import storage, urls
from dstc.store.input_policy import STRICT, InputPolicy
from dstc.store.json_record import MISSING, Record, read_record
from dstc.store.run_folder import RunFolder
from dstc.text import describe, duration, redact, visible

MAX_CARDS = 200
# CSS pixels of an image's side; those that need it are enlarged by whole pixels.
SHOWN_SIDE = 128


def write_report(
    output: str, inputs: InputPolicy = STRICT, *, beside: str | os.PathLike[str] | None = None
) -> str:
    """Writes `report.html` into a run folder.

    Args:
        output: the run folder; a local path or any fsspec URL.
        inputs: what the URIs in results may name on this machine; local files also where run and
            manifest both lie here.
        beside: the folder of another run, whose image of each row is shown, too.

    Returns:
        The path or URL of the page.

    Raises:
        RunFolderError: the folder holds no run, or `beside` none with any of the rows shown.
        SettingsError: `beside` is the run itself.
        StorageError: the folder cannot be read, or the page not be written.

    Example:
        write_report("guided", beside="student-run")
    """
    run = _run_folder(output)
    page = make_report(output, inputs, page_folder=run.uri, beside=beside)
    try:
        storage.write_bytes(run.report, page)
    except Exception as error:  # drivers raise their own types
        raise StorageError(f"{run.report}: cannot be written: {describe(error)}") from error
    return run.report


def make_report(
    output: str,
    inputs: InputPolicy = STRICT,
    *,
    page_folder: str | None = None,
    beside: str | os.PathLike[str] | None = None,
) -> bytes:
    """The page as bytes; no file is written.

    Args:
        output: the run folder; a local path or any fsspec URL.
        inputs, beside: as in `write_report`.
        page_folder: where the page will lie, for links to files; None where it lies nowhere.

    Raises:
        RunFolderError, SettingsError: as in `write_report`.
        StorageError: the folder cannot be read.
    """
    run = _run_folder(output)
    other = None if beside is None else _run_folder(os.fspath(beside), "beside")
    return render(_read_page(run, inputs, page_folder, other)).encode(errors="replace")


def serve_report(
    output: str,
    port: int,
    inputs: InputPolicy = STRICT,
    *,
    beside: str | os.PathLike[str] | None = None,
) -> None:
    """Shows the page at 127.0.0.1, made anew for each reload, until Ctrl-C.

    Args:
        output: the run folder; a local path or any fsspec URL. port: 0 takes any free one.
        inputs, beside: as in `write_report`.

    Raises:
        RunFolderError: as in `write_report`.
        SettingsError: the port cannot be had, or `beside` is the run itself.
        StorageError: the folder cannot be read.
    """
    run = _run_folder(output)
    _open_run(run)
    if beside is not None:
        make_report(output, inputs, beside=beside)  # a wrong one ends the command, not each reload
    with ReportServer(lambda: make_report(output, inputs, beside=beside), port) as server:
        # A shell script's background processes start with SIGINT ignored, and Python leaves it so.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"{server.url}  (Ctrl-C ends)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _run_folder(output: str, what: str = "output") -> RunFolder:
    urls.refuse_credentials(output, what)
    return RunFolder(urls.folder(output))


def write_contact_sheet(output: str, path: str, inputs: InputPolicy = STRICT) -> str:
    """Writes one printable PNG with some rows of a run: all of them where they find room.

    Args:
        output: the run folder. path: of the PNG; a local path or any fsspec URL.
        inputs: as in `write_report`.

    Returns:
        The path or URL of the PNG.

    Raises:
        RunFolderError: the folder holds no run.
        StorageError: the folder cannot be read, or the PNG not be written.
    """
    urls.refuse_credentials(path, "contact sheet")
    run = _run_folder(output)
    job, shards = _open_run(run)
    tally = count_rows(run, shards)
    rows = read_rows(run, Numbering(tally.parts).spread(MOST_ROWS))
    name = posixpath.basename(run.uri) or run.uri
    title = f"{name}: {len(rows):,} of {tally.rows:,} rows, preset {job.part('preset').get('name')}"
    sheet = contact_sheet(title, make_cards(run, job, rows, inputs=inputs))
    target = urls.absolute(path)
    try:
        storage.write_bytes(target, sheet)
    except Exception as error:  # drivers raise their own types
        raise StorageError(f"{target}: cannot be written: {describe(error)}") from error
    return target


def render(page: Page) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "reporting"),
        autoescape=True,
        # Bidi overrides and control characters of names and errors; texts keep their line ends.
        finalize=lambda value: visible(value, keep="\n\t") if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        redacted=lambda text: redact(text, text),
        count=lambda number: f"{number:,}",
        number=charts.number,
        percent=percent,
        duration=functools.partial(duration, tenths_below=10),
        moment=moment,
        csp_hash=_csp_hash,
    )
    return environment.get_template("report.html.j2").render(page=page, side=SHOWN_SIDE)


def _csp_hash(script: str) -> str:
    """The only script that a browser may run in the page, whatever gets into its texts."""
    digest = hashlib.sha256(str(script).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _open_run(run: RunFolder, what: str = "output") -> tuple[Record, list[int]]:
    """job.json and the shards that have results; raises where there is neither."""
    job, shards = read_record(run.job, "job.json"), run.parts()
    if not job.values and not shards:
        raise _no_run(run, job, what)
    return job, shards


def _read_page(
    run: RunFolder, inputs: InputPolicy, page_folder: str | None, other: RunFolder | None
) -> Page:
    job, shards = _open_run(run)
    if other is not None:
        _check_other(run, other)
    summary = read_record(run.summary, "summary.json")
    tally = count_rows(run, shards)
    throughput = read_throughput(run)
    extremes = find_extremes(run, tally.parts)
    if not extremes.names and tally.rows > MAX_CARDS:
        extremes = find_last_extremes(run, tally.parts)
    chosen = choose(tally, extremes, MAX_CARDS)
    rows = read_rows(run, chosen.places)
    measures = measures_of(run, tally.parts, rows)
    beside, paired = None, None
    if other is not None:
        beside, paired = _set_beside(run, job, tally, rows, measures, other)
    bands = read_bands(run, tally.parts)
    looks, looks_in_all = read_looks(run, tally.parts)
    expected = _expected_rows(job, tally)
    is_finished = bool(summary.values) and summary.values.get("rows") == tally.rows
    return Page(
        name=posixpath.basename(run.uri) or run.uri,
        output=redact(run.uri),
        written=datetime.datetime.now(datetime.UTC),
        job=job,
        summary=summary,
        is_finished=is_finished,
        notes=[
            *_notes(job, summary, tally, throughput, is_finished),
            *(beside.notes if beside else ()),
        ],
        tally=tally,
        expected=expected,
        cards=make_cards(run, job, rows, measures, inputs, page_folder, beside),
        chosen=chosen,
        metrics=make_table(_read_metrics(run), job, tally.rows),
        looks=looks,
        looks_in_all=looks_in_all,
        look_plots=[(look, list(_band_plots(look.bands, job))) for look in looks],
        bands=bands,
        band_plots=list(_band_plots(bands, job)),
        throughput=throughput,
        rate_plot=_over_time("rows per second", throughput.rates, throughput.active_s),
        occupancy_plot=_over_time(
            "share of slots that were busy", throughput.occupancies, throughput.active_s, high=1.0
        ),
        beside=beside,
        paired=paired,
    )


def _check_other(run: RunFolder, other: RunFolder) -> None:
    here, there = (urls.local_path(folder.uri) or folder.uri for folder in (run, other))
    is_same = here == there
    if not (urls.is_url(here) or urls.is_url(there)):
        is_same = os.path.realpath(here) == os.path.realpath(there)
    if is_same:
        raise SettingsError(
            f"beside {redact(other.uri)}: found the run itself; expected another run of its rows"
        )


def _set_beside(
    run: RunFolder,
    job: Record,
    tally: Tally,
    shown: Sequence[Mapping[str, Any]],
    measures: Sequence[Mapping[str, float]],
    other: RunFolder,
) -> tuple[Beside, Paired]:
    """Looks in another run for the rows that are shown, and for those that stand for the run.

    The latter are evenly spread: of a large run, doubtful and extreme rows are shown on purpose,
    and their means would be those of neither run.
    """
    other_job, shards = _open_run(other, "beside")
    spread, is_sample = shown, tally.rows > MAX_CARDS
    if is_sample:
        spread = read_rows(run, Numbering(tally.parts).spread(MAX_CARDS))
        measures = measures_of(run, tally.parts, spread)
    ids = {row["id"] for row in (*shown, *spread) if isinstance(row.get("id"), str)}
    summary = read_record(other.summary, "summary.json")
    beside = read_beside(other, other_job, summary, shards, ids)
    if ids and beside.ended and not beside.rows:
        raise _nothing_shared(run, beside, f"{len(ids):,} ids looked for" if is_sample else None)
    judging = [_read_metrics(folder).part("judging") for folder in (run, other)]
    return beside, pair(spread, measures, job, judging, beside, is_sample)


def _nothing_shared(run: RunFolder, beside: Beside, sample: str | None) -> RunFolderError:
    here, there = redact(run.uri), redact(beside.run.uri)
    text = (
        f"beside {there}: found none of the {sample or 'ids of the run'} among its "
        f"{beside.ended:,} rows; expected a run of the same rows"
    )
    if sample:
        text += f"; where it holds few of them, `dstc report {there} --beside {here}` finds them"
    return RunFolderError(text)


def _read_metrics(run: RunFolder) -> Record:
    try:
        return read_record(urls.join(run.uri, "metrics.json"), "metrics.json")
    except StorageError as error:  # whatever else there is can be read
        return Record("metrics.json", {}, str(error))


def _band_plots(bands: Bands, job: Record) -> Iterable[Plot]:
    for band in bands.bands:
        title = f"loss {band.name} by guided step"
        ends = (band.low.tolist(), band.median.tolist(), band.high.tolist())
        svg = charts.band_plot(title, *ends, shaded=bands.resampled)
        if svg is not None:
            weight = finite(job.part("preset").get(f"weight_{band.name}"))
            yield Plot(band.name, None if weight is None else f"{weight:g}", svg)


def _no_run(run: RunFolder, job: Record, what: str) -> RunFolderError:
    names = storage.list_names(run.uri)
    if job.problem != MISSING:
        found = f"job.json, which {job.problem}"
    elif names:
        found = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    else:
        found = "nothing"
    return RunFolderError(
        f"{what} {redact(run.uri)}: found {found}; expected a run folder that "
        "`dstc translate` made, with job.json and results/"
    )


def _expected_rows(job: Record, tally: Tally) -> int | None:
    rows = finite(job.part("manifest").get("rows"))
    if rows is None:
        return None
    limits = job.values.get("limits")
    known = filter(None, map(finite, limits)) if isinstance(limits, list) else ()
    largest = max(known, default=rows)
    # A run that went beyond its largest limit was continued without one.
    return int(min(rows, largest) if tally.rows <= largest else rows)


def _notes(
    job: Record, summary: Record, tally: Tally, throughput: Throughput, is_finished: bool
) -> list[str]:
    notes = []
    if job.problem:
        notes.append(f"job.json {job.problem}: settings, weights and manifest are unknown.")
    if summary.problem == MISSING:
        notes.append(
            "summary.json is not there: the run is still going, or was stopped, and the same "
            f"command continues it. Counts are from {_shards(len(tally.parts))} with results."
        )
    elif summary.problem:
        notes.append(f"summary.json {summary.problem}. Counts are from the results.")
    elif not is_finished:
        notes.append(
            f"summary.json tells of {summary.text('rows') or 'no'} rows, and the results hold "
            f"{tally.rows:,}: it is from an earlier command. Counts are from the results."
        )
    if not tally.parts and not tally.unreadable:
        notes.append("There are no results yet: no shard is finished.")
    if throughput.running:
        notes.append(f"Begun and not finished: {_shards(throughput.running)}.")
    if not throughput.found:
        notes.append("stats/ is missing or empty: the speed over time is unknown.")
    if bad := tally.unreadable:
        notes.append(f"Result parts that cannot be read: {len(bad):,}. The first: {bad[0]}")
    return notes


def _shards(number: int) -> str:
    return f"{number:,} shard" + ("" if number == 1 else "s")


def _over_time(
    title: str, values: Sequence[float], seconds: float, high: float | None = None
) -> Markup | None:
    ends = ("0 s", duration(seconds, tenths_below=10))
    return charts.line_plot(
        title, values, x_ends=ends, low=0.0, high=high, filled=True, width=2 * charts.WIDTH
    )
