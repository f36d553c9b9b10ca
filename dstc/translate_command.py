"""`dstc translate`: its options, and the codes it ends with."""

from __future__ import annotations

from typing import Annotated

import typer

from dstc.config_file import Config
from dstc.end_command import STOPPED, TERMINATED, end
from dstc.options import (
    HOW,
    WHAT,
    WHERE,
    AllowLocal,
    AllowPrivateHosts,
    Append,
    Boxes,
    CheckpointingLarge,
    Column,
    Compile,
    Deterministic,
    Device,
    DistilSet,
    EngineName,
    Fallback,
    FallbackOption,
    Format,
    ImageFormat,
    ImageStore,
    Keypoints,
    Masks,
    MaxImageBytes,
    PilotOption,
    Precision,
    Quality,
    RestoreSize,
    Retry,
    RowDeadline,
    Store,
    StudentOption,
    Tflops,
    read_key_values,
)
from dstc.store.input_policy import MAX_IMAGE_BYTES


def translate_command(
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
    append: Append = False,
    column: Column = None,
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
    pilot: PilotOption = None,
    distil_set: DistilSet = None,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
    store: ImageStore = Store.files,
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
        append=append,
        columns=read_key_values(column or [], "--column"),
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
        pilot=pilot,
        distil=read_key_values(distil_set or [], "--distil-set"),
        allow_local=tuple(allow_local or ()),
        allow_private_hosts=allow_private_hosts,
        max_image_bytes=max_image_bytes,
        store=store.value,
    )
    if settings.pilot is not None:
        from dstc.pilot import run
    try:
        code = run(settings, dry_run=dry_run, tflops=tflops, quiet=quiet)
    except Terminated:
        end("told to end; the same command continues", TERMINATED)
    except KeyboardInterrupt:
        end("stopped; the same command continues", STOPPED)
    raise typer.Exit(code)
