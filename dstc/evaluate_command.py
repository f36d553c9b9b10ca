"""`dstc evaluate`: its options."""

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


def evaluate_command(
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
    address: Address = None,
    config: Config = None,
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
            inputs=read_policy(allow_local, allow_private_hosts, max_image_bytes),
        )
    )
