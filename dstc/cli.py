"""The commands: `dstc translate`, `presets`, `status`, `verify`, `report`, `train`, `emoji`, ...

Heavy imports (torch, Ray) wait inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dstc import help_texts
from dstc.config_file import Config, Configurable
from dstc.distil_command import distil
from dstc.emoji import app as emoji
from dstc.end_command import BROKEN, UNUSABLE, end
from dstc.evaluate_command import evaluate_command
from dstc.export import export_command
from dstc.log_lines import show_logs
from dstc.manifest import app as manifest_app
from dstc.options import (
    AllowLocal,
    AllowPrivateHosts,
    MaxImageBytes,
    read_key_values,
    read_policy,
)
from dstc.store.input_policy import MAX_IMAGE_BYTES
from dstc.text import redact, visible
from dstc.translate_command import translate_command
from dstc.weights import app as weights
from dstc_engine.errors import DstcError, UserError


class _Commands(TyperGroup):
    """Says of a wrong choice what Typer says, without pydantic's words before it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="dstc",
    cls=_Commands,
    help="Translates whole data sets of images into other looks, while every shape stays in place.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"dstc {metadata.version('dstc')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None: ...


_translate = app.command(
    "translate", cls=Configurable, no_args_is_help=True, epilog=help_texts.TRANSLATE
)
_translate(translate_command)


@app.command(epilog=help_texts.PRESETS)
def presets(
    name: Annotated[str | None, typer.Argument(help="Show its fields; else list all.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As `dstc translate` would take it."),
    ] = None,
) -> None:
    """Lists the presets, or shows what one of them holds."""
    from dstc.presets import show_presets

    show_presets(name, read_key_values(set_ or []))


@app.command(cls=Configurable, no_args_is_help=True, epilog=help_texts.REPORT)
def report(
    output: Annotated[str, typer.Argument(help="Run folder; path or URL.")],
    beside: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Show that run's image of each row, too; path or URL."),
    ] = None,
    contact_sheet: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="A printable page of images instead."),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Show it at 127.0.0.1 until Ctrl-C, anew on each reload; write nothing."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(help="For --serve; 0 takes any free one.", min=0, max=65535)
    ] = 8000,
    config: Config = None,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Writes one self-contained HTML page about a run."""
    from dstc.report import serve_report, write_contact_sheet, write_report
    from dstc.store import urls

    if serve and contact_sheet is not None:
        raise UserError("--serve, --contact-sheet: found both; expected one of them")
    if beside is not None and contact_sheet is not None:
        raise UserError("--beside, --contact-sheet: found both; expected one of them")
    if beside is not None:
        beside = urls.absolute(beside)
    inputs = read_policy(allow_local, allow_private_hosts, max_image_bytes)
    if serve:
        serve_report(urls.absolute(output), port, inputs, beside=beside)
    elif contact_sheet is not None:
        print(visible(write_contact_sheet(urls.absolute(output), contact_sheet, inputs)))
    else:
        print(visible(write_report(urls.absolute(output), inputs, beside=beside)))


@app.command(no_args_is_help=True, epilog=help_texts.STATUS)
def status(
    output: Annotated[str, typer.Argument(help="Run folder; path or URL.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every 10 seconds, while the run runs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Says how far a run is, from its folder alone: while it runs, and after it died."""
    import dataclasses
    import json
    import time

    from dstc.status import print_status, read_status
    from dstc.store import storage

    while True:
        try:
            found = read_status(output)
        except OSError as error:
            raise storage.unanswered(output, error) from error
        if as_json:
            print(json.dumps(dataclasses.asdict(found)), flush=True)
        else:
            print_status(found)
        if not watch or found.state not in ("running", "new"):
            return
        time.sleep(10)


@app.command(no_args_is_help=True, epilog=help_texts.VERIFY)
def verify(
    output: Annotated[str, typer.Argument(help="Run folder; path or URL.")],
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="The next `dstc translate` makes what is missing or changed."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look whether images are there; read none.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Says whether a run folder holds what was written: rows, ids, manifest, sums of images."""
    from dstc.verify import FAULTY, WHOLE, print_verified, to_json
    from dstc.verify import verify as compare

    found = compare(output, repairs=repair, quick=quick)
    if as_json:
        print(to_json(found))
    else:
        print_verified(found)
    raise typer.Exit(WHOLE if found.is_whole else FAULTY)


_evaluate = app.command(
    "evaluate", cls=Configurable, no_args_is_help=True, epilog=help_texts.EVALUATE
)
_evaluate(evaluate_command)
_distil = app.command("distil", cls=Configurable, no_args_is_help=True, epilog=help_texts.DISTIL)
_distil(distil)
app.command("export", no_args_is_help=True, epilog=help_texts.EXPORT)(export_command)
app.add_typer(emoji, name="emoji")
app.add_typer(manifest_app, name="manifest")
app.add_typer(weights, name="weights")


def _mount_training() -> None:
    try:
        from dstc.train import app as train
    except ImportError:
        return
    app.add_typer(train, name="train")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the console script: runs a command and exits with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    show_logs()
    if not arguments or arguments[0] in ("train", "--help"):
        _mount_training()
    try:
        app(args=arguments, prog_name="dstc")
    except UserError as error:
        end(f"error: {error}", UNUSABLE)
    except DstcError as error:
        end(f"error: {error}", BROKEN)
    except Exception:  # a mistake of ours, which its traceback helps to mend
        print(visible(redact(traceback.format_exc()), keep="\n"), end="", file=sys.stderr)
        raise SystemExit(BROKEN) from None


if __name__ == "__main__":
    main()
