"""`dstc weights list / fetch / verify`: the networks' weights, and how they come to be here."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from dstc import help_texts
from dstc.text import visible
from dstc_engine.errors import DstcError, WeightsError

if TYPE_CHECKING:
    from dstc_engine.weights.download import OnProgress
    from dstc_engine.weights.registry import Weights

app = typer.Typer(help="The networks' weights.", no_args_is_help=True)

_KINDS = {
    "prior": "Priors: what images look like",
    "vit": "ViTs: structure and style",
    "clip": "CLIP: words",
    "face": "Faces: whose they are",
    "vgg": "VGG: structure and style, another way",
}
_IN_BUCKET = "in the bucket"
_STOPPED = 130
_LINE_EVERY_S = 10.0

Names = Annotated[list[str] | None, typer.Argument(help="Names from the list.")]
PresetName = Annotated[str | None, typer.Option("--preset", help="Those that this preset needs.")]


@app.command("list", epilog=help_texts.WEIGHTS_LIST)
def list_(
    preset: PresetName = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Lists weights: what they are, their licence, where they come from, and what is here."""
    chosen = _chosen(None, preset, everything=True)
    states = _states(chosen)
    if as_json:
        print(json.dumps([_record(weights, states[weights.name]) for weights in chosen]))
        return
    console = Console()
    for kind in dict.fromkeys(weights.kind for weights in chosen):
        console.print(Text(_KINDS.get(kind, kind), style="bold"))
        for weights in (each for each in chosen if each.kind == kind):
            _print_entry(console, weights, states[weights.name])
        console.print()
    console.print(Text(f"folder: {visible(str(_place()))}"), soft_wrap=True)


@app.command("fetch", epilog=help_texts.WEIGHTS_FETCH)
def fetch_(
    names: Names = None,
    preset: PresetName = None,
    everything: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Keep the files as published, too.")
    ] = False,
) -> None:
    """Brings weights: downloads, checks and converts what is not here yet.

    They go into the folder or bucket that DSTC_WEIGHTS names [dim](~/.cache/dstc/weights)[/dim].
    """
    if not (names or preset or everything):
        raise WeightsError("which weights? Expected names from the list, --preset NAME, or --all")
    chosen = _chosen(names, preset, everything)
    failed = []
    for weights in chosen:
        try:
            _bring(weights, keep_original)
        except DstcError as error:  # the others may still come
            print(visible(f"error: {error}"), file=sys.stderr, flush=True)
            failed.append(weights.name)
        except KeyboardInterrupt:
            print("stopped; the same command continues", file=sys.stderr)
            raise typer.Exit(_STOPPED) from None
    if failed:
        raise WeightsError(f"{len(failed)} of {len(chosen)} did not come: {', '.join(failed)}")


@app.command("verify", epilog=help_texts.WEIGHTS_VERIFY)
def verify_(names: Names = None, preset: PresetName = None) -> None:
    """Compares the weights on this machine with their sums; without arguments, all there are."""
    from dstc_engine.weights import registry
    from dstc_engine.weights.fetch import State, state_of

    chosen = _chosen(names, preset, everything=not (names or preset))
    here = [weights for weights in chosen if state_of(weights) is not State.MISSING]
    wrong = []
    for weights in here:
        try:
            print(f"{weights.name}: {registry.verify(weights.name)}", flush=True)
        except WeightsError as error:
            print(visible(f"error: {error}"), file=sys.stderr, flush=True)
            wrong.append(weights.name)
    missing = [weights.name for weights in chosen if weights not in here]
    if missing:
        print(f"not here: {', '.join(missing)}")
    if wrong:
        raise WeightsError(f"not as they should be: {', '.join(wrong)}")
    if missing and (names or preset):
        what = f"--preset {preset}" if preset else " ".join(missing)
        raise WeightsError(f"missing: {', '.join(missing)}; bring them: dstc weights fetch {what}")


# -- which, and what there is of them --------------------------------------------------------------


def _chosen(names: Sequence[str] | None, preset: str | None, everything: bool) -> list[Weights]:
    from dstc_engine.presets import get_preset
    from dstc_engine.weights import registry

    chosen = [registry.find(name) for name in names or ()]
    if preset:
        chosen += registry.weights_of(get_preset(preset))
    elif everything:
        chosen += registry.REGISTRY.values()
    return list(dict.fromkeys(chosen))


def _states(chosen: Sequence[Weights]) -> dict[str, str]:
    from dstc.store import storage
    from dstc.store.weights_bucket import bucket
    from dstc_engine.weights.fetch import State, state_of

    states = {weights.name: str(state_of(weights)) for weights in chosen}
    source = bucket()
    if source is not None:
        try:
            there = storage.list_names(source)
        except OSError as error:
            raise storage.unanswered(source, error) from error
        for name, state in states.items():
            if state != State.SHIPPED and f"{name}.json" in there:
                states[name] = _IN_BUCKET
    return states


def _place() -> str:
    from dstc.store.weights_bucket import bucket
    from dstc_engine.weights.registry import weights_folder

    source = bucket()
    return f"{source}, copied to {weights_folder()}" if source else str(weights_folder())


def _record(weights: Weights, state: str) -> dict[str, Any]:
    fields = ("name", "kind", "about", "upstream", "file", "source", "url", "size", "sha256")
    record = {field: getattr(weights, field) for field in fields}
    return {
        **record,
        "licence": weights.licence,
        "conditions": weights.conditions,
        "state": state,
    }


def _print_entry(console: Console, weights: Weights, state: str) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_column(justify="right", width=10)
    table.add_column(width=16)
    table.add_row(f"  {weights.name}", _megabytes(weights.size), state)
    console.print(table)
    licence = "; ".join(filter(None, (f"licence {weights.licence}", weights.conditions)))
    sums = "" if weights.sha256 else "no sha256 is published"
    upstream = (
        f"{weights.about}; upstream: {weights.upstream}" if weights.upstream else weights.about
    )
    for text in (upstream, licence, sums):
        if text:
            console.print(Padding(Text(text, style="dim"), (0, 0, 0, 4)))
    # Left to the terminal to break, so that it can be copied whole.
    console.print(Text(f"    {weights.url or weights.source}", style="dim"), soft_wrap=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size else ""


# -- bringing --------------------------------------------------------------------------------------


def _bring(weights: Weights, keep_original: bool) -> None:
    from dstc.store import storage, weights_bucket
    from dstc_engine.weights import fetch, registry

    name = weights.name
    source = None if weights.shipped else weights_bucket.bucket()
    try:
        if source is not None and weights_bucket.description_of(name):
            _say(f"{name}: is in {source}")
            return
        if fetch.state_of(weights) in (fetch.State.SHIPPED, fetch.State.PRESENT):
            _say(f"{name}: is here, {registry.verify(name)}")
        else:
            _say(f"{name}: " + ", ".join(filter(None, (weights.about, _megabytes(weights.size)))))
            _say(f"{name}: licence {weights.licence}")
            if weights.conditions:
                _say(f"{name}: {weights.conditions}")
            with _progress(name) as on_progress:
                path = fetch.fetch(
                    name,
                    keep_original=keep_original,
                    on_progress=on_progress,
                    on_wait=lambda: _say(f"{name}: another process is at it; waiting"),
                )
            _say(f"{name}: {_about_sum(name)}")
            _say(f"{name}: ready, {path}")
        if source is not None:
            _say(f"{name}: copying to {source}")
            weights_bucket.put(name)
    except OSError as error:
        raise storage.unanswered(source or "weights", error) from error


def _about_sum(name: str) -> str:
    from dstc_engine.weights import fetch

    description = json.loads(fetch.sidecar(name).read_text())
    sha256 = description["upstream_sha256"]
    if description["upstream_published"]:
        return f"sha256 {sha256}, as published"
    return f"sha256 {sha256}, which nobody publishes: taken on trust now, and held to from here on"


@contextmanager
def _progress(name: str) -> Iterator[OnProgress]:
    """A bar on a terminal, a line now and then otherwise."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Lines:
    """Says from time to time how far it is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._said >= _LINE_EVERY_S:
            self._said = now
            share = f" of {_megabytes(total)}" if total else ""
            _say(f"{self._name}: {_megabytes(done)}{share}")


def _say(line: str) -> None:
    print(visible(line), flush=True)
