"""What options of several commands share: their choices, and `--set KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from dstc.errors import SettingsError
from dstc.store.input_policy import InputPolicy
from dstc.store.urls import absolute

HOW, WHAT, WHERE = "How images are made", "Which rows", "Where it runs"
INPUTS, RESULTS = "What rows may name", "What results are"
AllowLocal = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR",
        help="Folder of local images that rows of a remote manifest may name; repeatable.",
        rich_help_panel=INPUTS,
    ),
]
AllowPrivateHosts = Annotated[
    bool,
    typer.Option(
        "--allow-private-hosts",
        help="Web servers at private and loopback addresses, too.",
        rich_help_panel=INPUTS,
    ),
]
MaxImageBytes = Annotated[
    int, typer.Option(help="Of one image file.", min=1, rich_help_panel=INPUTS)
]
Append = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Rows that came to the manifest of a run in OUTPUT, wherever they lie in it.",
        rich_help_panel=WHAT,
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=COLUMN",
        help="A column of the manifest that is called otherwise, such as content=image_path; "
        "repeatable.",
        rich_help_panel=WHAT,
    ),
]
CheckpointingLarge = Annotated[
    bool,
    typer.Option(
        "--checkpointing-large",
        help="The same in two stages, which hold most of the memory; less work.",
        rich_help_panel=HOW,
    ),
]

Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Only kernels that give the same bits each time, on GPUs too; slower.",
        rich_help_panel=HOW,
    ),
]


class Precision(StrEnum):
    """Of the networks."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    tf32 = "tf32"


class Compile(StrEnum):
    """Mode of torch.compile, or CUDA graphs."""

    no = "no"
    default = "default"
    autotuned = "max-autotune-no-cudagraphs"
    graphs = "graphs"


class Device(StrEnum):
    """Where networks live; auto uses GPUs where there are any."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Retry(StrEnum):
    """Which rows that have a result run again."""

    failed = "failed"
    rejected = "rejected"
    flagged = "flagged"


class Format(StrEnum):
    """Of the images of a run."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    avif = "avif"


EngineName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What translates: guided, or an engine of your own as package.module:RECORD.",
        rich_help_panel=HOW,
    ),
]
RowDeadline = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Longest time to fetch a row, and again to translate it [dim](1 h, or 10 min a "
        "slot)[/dim].",
        rich_help_panel=WHERE,
    ),
]
Tflops = Annotated[
    float | None,
    typer.Option(
        help="For --dry-run: TFLOP/s that one device sustains.",
        min=0.001,
        rich_help_panel=WHAT,
    ),
]


class Store(StrEnum):
    """Where the images of a run are written."""

    files = "files"
    webdataset = "webdataset"
    parquet = "parquet"


ImageStore = Annotated[
    Store,
    typer.Option(
        "--store",
        help="A file for each image, or all of a shard in one tar or Parquet file.",
        rich_help_panel=RESULTS,
    ),
]
ImageFormat = Annotated[
    Format, typer.Option("--format", help="Of the images.", rich_help_panel=RESULTS)
]
Quality = Annotated[
    int | None,
    typer.Option(
        help="1 to 100, of all but PNG [dim](jpeg 95, webp 90, avif 85)[/dim].",
        rich_help_panel=RESULTS,
    ),
]
RestoreSize = Annotated[
    bool,
    typer.Option(
        "--restore-size",
        help="Put each result back into its content, at the content's size.",
        rich_help_panel=RESULTS,
    ),
]
Boxes = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[:coco|pascal]",
        help="Boxes of the content, to be carried over to results.",
        rich_help_panel=RESULTS,
    ),
]
Keypoints = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[:coco|points]",
        help="Points of the content, to be carried over to results.",
        rich_help_panel=RESULTS,
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[:image|coco]",
        help="Labels of pixels, in images or as polygons, to be carried over to results.",
        rich_help_panel=RESULTS,
    ),
]


Address = Annotated[
    str | None,
    typer.Option(help="Running Ray cluster [dim](RAY_ADDRESS, else Ray starts here)[/dim]."),
]


class Fallback(StrEnum):
    """What becomes of rows that a student cannot do."""

    guided = "guided"
    flag = "flag"
    none = "none"


StudentOption = Annotated[
    str | None,
    typer.Option(
        metavar="STUDENT",
        help="Folder of a student (dstc distil), which translates rows of looks that it knows.",
        rich_help_panel=HOW,
    ),
]
FallbackOption = Annotated[
    Fallback,
    typer.Option(
        help="Of rows whose look the student does not know or whose image fails a gate: guidance; "
        "flag the image; or use it.",
        rich_help_panel=HOW,
    ),
]


PilotOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="First guide N rows of the manifest's looks and make a student of them, which then "
        "translates all rows: for few looks that repeat.",
        rich_help_panel=HOW,
    ),
]
DistilSet = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="For --pilot: a setting of the student's training (dstc distil); repeatable.",
        rich_help_panel=HOW,
    ),
]


def read_key_values(texts: Sequence[str], option: str = "--set") -> dict[str, str]:
    """The values by key; of a key that is given twice, the last.

    Raises:
        SettingsError: a text is not KEY=VALUE.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"{option}: found {text!r}; expected KEY=VALUE")
        values[key.strip()] = value.strip()
    return values


def read_policy(
    folders: Sequence[str] | None, private_hosts: bool, max_image_bytes: int
) -> InputPolicy:
    """What rows may name, of the options of `INPUTS`."""
    return InputPolicy(
        local_folders=tuple(absolute(folder) for folder in folders or ()),
        private_hosts=private_hosts,
        max_bytes=max_image_bytes,
    )
