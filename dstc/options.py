"""What options of several commands share: their choices, and `--set KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from dstc.errors import SettingsError
from dstc.store.input_policy import InputPolicy
from dstc.store.urls import absolute

INPUTS = "What rows may name"
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


class Precision(StrEnum):
    """Of the networks."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Compile(StrEnum):
    """Mode of torch.compile."""

    no = "no"
    default = "default"
    autotuned = "max-autotune-no-cudagraphs"


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
        rich_help_panel="How images are made",
    ),
]
FallbackOption = Annotated[
    Fallback,
    typer.Option(
        help="Of rows whose look the student does not know or whose image fails a gate: guidance; "
        "flag the image; or use it.",
        rich_help_panel="How images are made",
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


def read_inputs(folders: list[str] | None, private_hosts: bool, max_bytes: int) -> InputPolicy:
    """What rows may name, as the options of `INPUTS` say."""
    return InputPolicy(
        local_folders=tuple(absolute(folder) for folder in folders or ()),
        private_hosts=private_hosts,
        max_bytes=max_bytes,
    )
