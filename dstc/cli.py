"""The commands: `dstc translate`, `presets`, `status`, `verify`, `report`, `train`, `emoji`, ...

Heavy imports (torch, Ray) wait inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, NoReturn

import typer

from dstc import help_texts
from dstc.config_file import Config, Configurable
from dstc.distil_command import distil
from dstc.emoji import app as emoji
from dstc.evaluate_command import evaluate_command
from dstc.export import export_command
from dstc.log_lines import show_logs
from dstc.manifest import app as manifest_app
from dstc.options import (
    HOW,
    WHAT,
    WHERE,
    AllowLocal,
    AllowPrivateHosts,
    Boxes,
    CheckpointingLarge,
    Compile,
    Deterministic,
    Device,
    EngineName,
    Fallback,
    FallbackOption,
    Format,
    ImageFormat,
    Keypoints,
    Masks,
    MaxImageBytes,
    Precision,
    Quality,
    RestoreSize,
    Retry,
    RowDeadline,
    StudentOption,
    Tflops,
    read_key_values,
    read_policy,
)
from dstc.store.input_policy import MAX_IMAGE_BYTES
from dstc.text import redact, visible
from dstc.weights import app as weights
from dstc_engine.errors import DstcError, UserError

BROKEN, UNUSABLE, STOPPED, TERMINATED = 1, 2, 130, 143

app = typer.Typer(
    name="dstc",
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


@app.command(cls=Configurable, no_args_is_help=True, epilog=help_texts.TRANSLATE)
def translate(
    manifest: Annotated[str, typer.Argument(help="Parquet file, folder or glob; path or URL.")],
    output: Annotated[str, typer.Argument(help="Run folder, new or to continue; path or URL.")],
    preset: Annotated[str, typer.Option(help="Name of the preset.", rich_help_panel=HOW)] = (
        "tiny64"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A field of the preset to change; may be given more than once.",
            rich_help_panel=HOW,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seeds rows that bring no seed.", rich_help_panel=HOW)
    ] = 0,
    slots: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Images an actor translates at once [dim](8, of a student 64)[/dim]; auto: as "
            "many as a GPU holds.",
            rich_help_panel=HOW,
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the networks.", rich_help_panel=HOW)
    ] = Precision.fp32,
    compile_: Annotated[
        Compile,
        typer.Option("--compile", help="Compile the networks; for GPUs.", rich_help_panel=HOW),
    ] = Compile.no,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing",
            help="More slots in the same memory, at up to half more work.",
            rich_help_panel=HOW,
        ),
    ] = False,
    deterministic: Deterministic = False,
    checkpointing_large: CheckpointingLarge = False,
    samples_per_row: Annotated[
        int, typer.Option(help="Images of each row, by other seeds.", rich_help_panel=WHAT)
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N rows.", rich_help_panel=WHAT)
    ] = None,
    retry: Annotated[
        Retry | None,
        typer.Option(
            help="Also run the failed rows again; the rejected ones, whose files may be there now; "
            "or the flagged ones, with another seed.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    max_rejected: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Exit code 3 where more of the rows are rejected; 1 never minds.",
            rich_help_panel=WHAT,
        ),
    ] = 0.1,
    rows_per_shard: Annotated[
        int, typer.Option(help="Rows committed together.", rich_help_panel=WHAT)
    ] = 16,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be done, and its cost.", rich_help_panel=WHAT
        ),
    ] = False,
    tflops: Tflops = None,
    actors: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Processes that translate [dim](one a GPU, or a core up to 4)[/dim].",
            rich_help_panel=WHERE,
        ),
    ] = None,
    row_deadline: RowDeadline = None,
    device: Annotated[
        Device, typer.Option(help="Where the networks live.", rich_help_panel=WHERE)
    ] = Device.auto,
    address: Annotated[
        str | None,
        typer.Option(
            help="Running Ray cluster [dim](RAY_ADDRESS, else Ray starts here)[/dim].",
            rich_help_panel=WHERE,
        ),
    ] = None,
    engine: EngineName = "guided",
    fake_step_seconds: Annotated[float, typer.Option(hidden=True)] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what goes wrong.")] = False,
    config: Config = None,
    format_: ImageFormat = Format.png,
    quality: Quality = None,
    restore_size: RestoreSize = False,
    boxes: Boxes = None,
    keypoints: Keypoints = None,
    masks: Masks = None,
    student: StudentOption = None,
    fallback: FallbackOption = Fallback.guided,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Translates every row of MANIFEST into OUTPUT; run again, it continues where it stopped."""
    from dstc.driver.signals import Terminated
    from dstc.planning.settings import make_settings
    from dstc.translate import run

    settings = make_settings(
        manifest=manifest,
        output=output,
        preset=preset,
        set=read_key_values(set_ or []),
        seed=seed,
        actors=actors,
        slots=slots,
        precision=precision.value,
        compile=compile_.value,
        checkpointing=checkpointing or ("large" if checkpointing_large else False),
        deterministic=deterministic,
        samples_per_row=samples_per_row,
        rows_per_shard=rows_per_shard,
        limit=limit,
        retry=retry.value if retry else None,
        max_rejected=max_rejected,
        row_deadline=row_deadline,
        device=device.value,
        address=address,
        engine=engine,
        fake_step_seconds=fake_step_seconds,
        format=format_.value,
        quality=quality,
        restore_size=restore_size,
        boxes=boxes,
        keypoints=keypoints,
        masks=masks,
        student=student,
        fallback=fallback.value,
        allow_local=tuple(allow_local or ()),
        allow_private_hosts=allow_private_hosts,
        max_image_bytes=max_image_bytes,
    )
    try:
        code = run(settings, dry_run=dry_run, tflops=tflops, quiet=quiet)
    except Terminated:
        _end("told to end; the same command continues", TERMINATED)
    except KeyboardInterrupt:
        _end("stopped; the same command continues", STOPPED)
    raise typer.Exit(code)


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
    inputs = read_policy(allow_local, allow_private_hosts, max_image_bytes)
    if serve:
        serve_report(urls.absolute(output), port, inputs)
    elif contact_sheet is not None:
        print(visible(write_contact_sheet(urls.absolute(output), contact_sheet, inputs)))
    else:
        print(visible(write_report(urls.absolute(output), inputs)))


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
        _end(f"error: {error}", UNUSABLE)
    except DstcError as error:
        _end(f"error: {error}", BROKEN)
    except Exception:  # a mistake of ours, which its traceback helps to mend
        print(visible(redact(traceback.format_exc()), keep="\n"), end="", file=sys.stderr)
        raise SystemExit(BROKEN) from None


def _end(message: str, code: int) -> NoReturn:
    print(visible(message), file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
