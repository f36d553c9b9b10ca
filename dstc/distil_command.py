"""Options of `dstc distil`; the work itself is in `dstc/distil.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from dstc.config_file import Config
from dstc.options import (
    Address,
    AllowLocal,
    AllowPrivateHosts,
    Device,
    MaxImageBytes,
    read_key_values,
    read_policy,
)
from dstc.store.input_policy import MAX_IMAGE_BYTES
from dstc.text import visible


def distil(
    run: Annotated[str, typer.Argument(help="Finished guided run, the pilot; path or URL.")],
    out: Annotated[str, typer.Option(help="Folder of the student, new or to continue.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the training.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per step, over all workers.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the training to change; may be given more than once.",
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="Stop training after; the same command continues.")
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Above 1: through Ray Train.")] = 1,
    device: Annotated[Device, typer.Option(help="Where the networks live.")] = Device.auto,
    storage: Annotated[
        str | None, typer.Option(help="Where several workers keep checkpoints; path or URL.")
    ] = None,
    address: Address = None,
    config: Config = None,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Learns the looks of a run, to apply them at the cost of one forward pass."""
    from dstc.distil import DistilPlan, say_compared
    from dstc.distil import distil as learn

    plan = DistilPlan(
        run=run,
        out=out,
        storage=storage,
        workers=workers,
        device=device,
        minutes=minutes,
        steps=steps,
        batch=batch,
        settings=read_key_values(set_ or []),
        inputs=read_policy(allow_local, allow_private_hosts, max_image_bytes),
    )
    for line in say_compared(learn(plan, address), out):
        print(visible(line))
