"""`dstc emoji`: the project's own small images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dstc import help_texts
from dstc_engine.errors import DstcError

app = typer.Typer(help="The project's own small images.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """Lets `build` be named, though it is the only command."""


@app.command(no_args_is_help=True, epilog=help_texts.EMOJI_BUILD)
def build(
    folder: Annotated[Path, typer.Argument(help="Where the Parquet file goes.")],
    size: Annotated[int, typer.Option(help="Pixels of an image's side.", min=8)] = 64,
) -> None:
    """Builds the emoji data set from its published packages."""
    from tiny64.data import EmojiDataError, build_emoji

    try:
        print(build_emoji(folder, size=size))
    except EmojiDataError as error:
        raise DstcError(str(error)) from error
