"""`dstc export`: a data set of a finished run, for the loaders that training uses."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from dstc.errors import JobError, SettingsError
from dstc.options import AllowLocal, AllowPrivateHosts, MaxImageBytes, read_policy
from dstc.store import urls
from dstc.store.input_policy import MAX_IMAGE_BYTES, InputPolicy
from dstc.text import describe, redact


class ExportFormat(StrEnum):
    """Of data sets."""

    imagefolder = "imagefolder"
    webdataset = "webdataset"
    hf = "hf"
    coco = "coco"
    folder = "folder"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        to: the folder. images: in it. left_out: rows that have none there, by reason.
    """

    to: str
    images: int
    left_out: Mapping[str, int]


def export(
    output: str | os.PathLike[str],
    to: str | os.PathLike[str],
    kind: str,
    *,
    label_column: str | None = None,
    split_column: str | None = None,
    pairs: bool = False,
    skip_flagged: bool = False,
    inputs: InputPolicy | None = None,
) -> Exported:
    """Writes a data set of a finished run.

    Args:
        output: the run folder. to: an empty or new folder, a local path or any fsspec URL.
        kind: "imagefolder", "webdataset", "hf", "coco" or "folder".
        label_column, split_column: of the results. pairs: contents beside the images.
        skip_flagged: leave out rows with a flag. inputs: what contents may be.

    Raises:
        RunFolderError: no finished run, one without an image, or a folder that is not empty.
        SettingsError: no such kind or column, or labels that the format has no place for.
        JobError: images are missing or damaged, or storage does not answer.
    """
    from dstc.exporting.coco import write_coco
    from dstc.exporting.finished_run import FinishedRun
    from dstc.exporting.folder import Folder
    from dstc.exporting.hugging_face import write_hugging_face
    from dstc.exporting.image_folder import write_image_folder
    from dstc.exporting.items import Items, Selection
    from dstc.exporting.plain_folder import write_plain_folder
    from dstc.exporting.web_dataset import write_web_dataset

    writers: dict[str, Callable[[Items, Folder], int]] = {
        "imagefolder": write_image_folder,
        "webdataset": write_web_dataset,
        "hf": write_hugging_face,
        "coco": write_coco,
        "folder": write_plain_folder,
    }
    if kind not in writers:
        raise SettingsError(f"kind: found {kind!r}; expected one of {', '.join(writers)}")
    output, to = os.fspath(output), os.fspath(to)
    urls.refuse_credentials(output, "run")
    try:
        run = FinishedRun.open(output, inputs or InputPolicy())
        run.require_done()
        items = Items(run, Selection(label_column, split_column, skip_flagged, pairs))
        with Folder(to) as folder:
            images = writers[kind](items, folder)
    except OSError as error:
        raise JobError(f"storage does not answer: {describe(error)}") from error
    return Exported(folder.uri, images, dict(Counter(items.left_out)))


def export_command(
    output: Annotated[str, typer.Argument(metavar="RUN", help="Run folder; path or URL.")],
    to: Annotated[str, typer.Argument(help="Empty or new folder; path or URL.")],
    kind: Annotated[ExportFormat, typer.Option("--format", help="Of the data set.")],
    label_column: Annotated[
        str | None, typer.Option(help="Column of classes; for coco one, or a list of objects'.")
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(help="Column of splits, such as train and val.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Contents, too, pixel for pixel as the results lie.")
    ] = False,
    skip_flagged: Annotated[
        bool, typer.Option("--skip-flagged", help="Leave out rows with a flag.")
    ] = False,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Makes a data set of a finished run: ImageFolder, WebDataset, Hugging Face, COCO, files."""
    from dstc.driver.terminal import console, facts_table

    inputs = read_policy(allow_local, allow_private_hosts, max_image_bytes)
    found = export(
        output,
        to,
        kind.value,
        label_column=label_column,
        split_column=split_column,
        pairs=pairs,
        skip_flagged=skip_flagged,
        inputs=inputs,
    )
    table = facts_table("Data set")
    table.add_row("folder", redact(found.to))
    table.add_row("images", f"{found.images:,}")
    for reason, rows in found.left_out.items():
        table.add_row("left out", f"{rows:,} rows {reason}")
    console().print(table)
