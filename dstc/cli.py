"""The commands: `dstc translate`, `presets`, `status`, `verify`, `report`, `train`, `emoji`, ...

Heavy imports (torch, Ray) wait inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from dstc.distil_command import distil
from dstc.emoji import app as emoji
from dstc.log_lines import show_logs
from dstc.options import (
    AllowLocal,
    AllowPrivateHosts,
    Compile,
    Device,
    Fallback,
    FallbackOption,
    MaxImageBytes,
    Precision,
    Retry,
    StudentOption,
    read_inputs,
    read_key_values,
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
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


_HOW, _WHAT, _WHERE = "How images are made", "Which rows", "Where it runs"


_EXIT_CODES = (
    "Exit codes: 0 every row is done, or rejected with a reason; 3 some rows failed, or more "
    "than --max-rejected were rejected; "
    "2 arguments or manifest cannot be used; 1 the job itself broke."
)


@app.command(no_args_is_help=True, epilog=_EXIT_CODES)
def translate(
    manifest: Annotated[str, typer.Argument(help="Parquet file, folder or glob; path or URL.")],
    output: Annotated[str, typer.Argument(help="Run folder, new or to continue; path or URL.")],
    preset: Annotated[str, typer.Option(help="Name of the preset.", rich_help_panel=_HOW)] = (
        "tiny64"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A field of the preset to change; may be given more than once.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seeds rows that bring no seed.", rich_help_panel=_HOW)
    ] = 0,
    slots: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Images an actor translates at once (8; of a student 64); auto: as many as a GPU "
            "holds.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the networks.", rich_help_panel=_HOW)
    ] = Precision.fp32,
    compile_: Annotated[
        Compile,
        typer.Option("--compile", help="Compile the networks; for GPUs.", rich_help_panel=_HOW),
    ] = Compile.no,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing",
            help="More slots in the same memory, at up to half more work.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    samples_per_row: Annotated[
        int, typer.Option(help="Images of each row, by other seeds.", rich_help_panel=_WHAT)
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N rows.", rich_help_panel=_WHAT)
    ] = None,
    retry: Annotated[
        Retry | None,
        typer.Option(
            help="Also run the failed rows again; the rejected ones, whose files may be there now; "
            "or the flagged ones, with another seed.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    max_rejected: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Exit code 3 where more of the rows are rejected; 1 never minds.",
            rich_help_panel=_WHAT,
        ),
    ] = 0.1,
    rows_per_shard: Annotated[
        int, typer.Option(help="Rows committed together.", rich_help_panel=_WHAT)
    ] = 16,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be done, and its cost.", rich_help_panel=_WHAT
        ),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="For --dry-run: TFLOP/s that one device sustains.",
            min=0.001,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    actors: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Processes that translate [dim](one a GPU, or a core up to 4)[/dim].",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    row_deadline: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest time to fetch a row, and again to translate it [dim](1 h, or 10 min a "
            "slot)[/dim].",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Where the networks live.", rich_help_panel=_WHERE)
    ] = Device.auto,
    address: Annotated[
        str | None,
        typer.Option(
            help="Running Ray cluster [dim](RAY_ADDRESS, else Ray starts here)[/dim].",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What translates: guided, or an engine of your own as package.module:RECORD.",
            rich_help_panel=_HOW,
        ),
    ] = "guided",
    fake_step_seconds: Annotated[float, typer.Option(hidden=True)] = 0.0,
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
        checkpointing=checkpointing,
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
        student=student,
        fallback=fallback.value,
        allow_local=tuple(allow_local or ()),
        allow_private_hosts=allow_private_hosts,
        max_image_bytes=max_image_bytes,
    )
    try:
        code = run(settings, dry_run=dry_run, tflops=tflops)
    except Terminated:
        _end("told to end; the same command continues", TERMINATED)
    except KeyboardInterrupt:
        _end("stopped; the same command continues", STOPPED)
    raise typer.Exit(code)


@app.command()
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


@app.command(no_args_is_help=True)
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
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Writes one self-contained HTML page about a run."""
    from dstc.report import serve_report, write_contact_sheet, write_report
    from dstc.store import urls

    if serve and contact_sheet is not None:
        raise UserError("--serve, --contact-sheet: found both; expected one of them")
    inputs = read_inputs(allow_local, allow_private_hosts, max_image_bytes)
    if serve:
        serve_report(urls.absolute(output), port, inputs)
    elif contact_sheet is not None:
        print(visible(write_contact_sheet(urls.absolute(output), contact_sheet, inputs)))
    else:
        print(visible(write_report(urls.absolute(output), inputs)))


@app.command(no_args_is_help=True)
def evaluate(
    output: Annotated[str, typer.Argument(help="Run folder, finished or not; path or URL.")],
    dino: Annotated[
        str | None, typer.Option(help="ViT to measure structure with (the preset's own), or none.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="CLIP model to measure prompts with (the preset's last), or none."),
    ] = None,
    identity: Annotated[
        str | None, typer.Option(help="Face network (the preset's, where it guides), or none.")
    ] = None,
    lpips: Annotated[
        str | None,
        typer.Option(metavar="NET=FILE", help="LPIPS: alex, vgg or squeeze, with its weights."),
    ] = None,
    segmentation: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="mask_iou: foreground, foreground:LEVEL, or NETWORK=FILE."
        ),
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Column of labels of the content, for mask_iou.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="FILE.parquet", help="Real images: distances of sets, style_right."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What a row of the reference must have to count."),
    ] = None,
    style_column: Annotated[
        str | None, typer.Option(help="Column that names the wanted style, for style_right.")
    ] = None,
    inception: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights of Inception, for FID and KID.")
    ] = None,
    truth: Annotated[
        str | None, typer.Option(help="Column of ground-truth images (truth, if there is one).")
    ] = None,
    actors: Annotated[int, typer.Option(help="Processes that measure.", min=1)] = 1,
    device: Annotated[Device, typer.Option(help="Where the networks live.")] = Device.auto,
    address: Annotated[
        str | None,
        typer.Option(help="Running Ray cluster [dim](RAY_ADDRESS, else Ray starts here)[/dim]."),
    ] = None,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Measures the images of a run: metrics/, metrics.json and a table."""
    from dstc.evaluate import EvaluateOptions
    from dstc.evaluate import evaluate as measure

    measure(
        EvaluateOptions(
            output=output,
            dino=dino,
            clip=clip,
            identity=identity,
            lpips=lpips,
            segmentation=segmentation,
            masks=masks,
            reference=reference,
            where=read_key_values(where or [], "--where"),
            style_column=style_column,
            inception=inception,
            truth=truth,
            actors=actors,
            device=device.value,
            address=address,
            inputs=read_inputs(allow_local, allow_private_hosts, max_image_bytes),
        )
    )


@app.command(no_args_is_help=True)
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


@app.command(
    no_args_is_help=True,
    epilog="Exit codes: 0 everything is as it was written; 1 something is not; 2 no run is there.",
)
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


app.command(no_args_is_help=True)(distil)
app.add_typer(emoji, name="emoji")
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
