"""`dstc manifest build / check / show`: from what a team has to a manifest, and what is in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dstc import help_texts
from dstc.errors import ManifestError, SettingsError
from dstc.options import (
    AllowLocal,
    AllowPrivateHosts,
    Column,
    MaxImageBytes,
    read_key_values,
)
from dstc.store.input_policy import MAX_IMAGE_BYTES
from dstc.text import visible

app = typer.Typer(help="Manifests: made of what you have, checked, shown.", no_args_is_help=True)

NO_MANIFEST, BAD_ROWS = 2, 3

_STYLES, _ROWS = "What the images become", "Which rows"


def gathered(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--style` before each file that a shell made of `--style looks/*.png`.

    Those are the names that follow it, as long as they lie in the same folder and are images.

    Example:
        >>> gathered(["--style", "looks/a.png", "looks/b.png", "pics/"])
        ['--style', 'looks/a.png', '--style', 'looks/b.png', 'pics/']
    """
    from dstc.manifests.image_files import is_image
    from dstc.store.urls import parent

    found: list[str] = []
    style: str | None = None  # the last one, where nothing else has come since
    for place, argument in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1] == "--style"
        if is_value:
            style = argument
        elif argument.startswith("-"):
            style = None
        elif style and is_image(argument) and parent(argument) == parent(style):
            found.append("--style")
        else:
            style = None
        found.append(argument)
    return found


class _Build(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, gathered(args))


@app.command(
    cls=_Build,
    no_args_is_help=True,
    epilog=help_texts.MANIFEST_BUILD,
)
def build(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folder, pattern or files of images; CSV, JSON Lines, Parquet; Hugging Face, "
            "WebDataset, COCO; an earlier run. Path or URL.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The manifest to write: FILE.parquet.")
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NEW=OLD",
            help="A column of the manifest, and what the source calls it; repeatable.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="Image, folder or pattern; repeatable.", rich_help_panel=_STYLES
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="With columns in braces: '{label}, watercolor'; repeatable.",
            rich_help_panel=_STYLES,
        ),
    ] = None,
    source_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What contents show, as --prompt.", rich_help_panel=_STYLES
        ),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="What each content gets of several: zip, product, random:K, by:COLUMN.",
            rich_help_panel=_STYLES,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random:K.", rich_help_panel=_STYLES)] = 0,
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Of COCO: where its images lie.", rich_help_panel=_ROWS),
    ] = None,
    mask_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CATEGORY",
            help="Of COCO: write masks, white on these objects; all: on any; repeatable.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Of images: folder of masks, named as the contents; white is translated.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Where the manifest is there already.")
    ] = False,
) -> None:
    """Makes a manifest of images and tables as they are."""
    from dstc.manifests.build import BuildOptions, build_manifest
    from dstc.manifests.find_sources import CocoOptions, find_sources
    from dstc.manifests.image_files import find_images
    from dstc.manifests.mask_folder import with_masks

    options = BuildOptions(
        output=output,
        columns=read_key_values(column or [], "--column"),
        styles=[uri for text in style or () for uri in find_images(text)],
        prompts=prompt or (),
        source_prompt=source_prompt,
        pair=pair,
        seed=seed,
        replaces=replace,
    )
    coco = CocoOptions(images, mask_of or ())
    found = find_sources(sources, options.columns, coco)
    built = build_manifest(with_masks(found, masks) if masks else found, options)
    for line in _summary(built):
        print(visible(line))


def _summary(built: Any) -> list[str]:
    uri = built.uri
    lines = [
        f"{uri}: {built.rows:,} rows of {built.contents:,} contents",
        f"columns: {', '.join(built.columns)}",
    ]
    if built.images:
        lines.append(f"{built.images:,} images in {built.files:,} files in {built.folder}")
    if built.changed_ids:
        lines.append(f"{built.changed_ids:,} names are no safe ids; the names are kept")
    if built.repeated_ids:
        lines.append(f"{built.repeated_ids:,} ids came twice and got a number")
    lines += [
        f"{count:,} rows have no {column}" for column, count in built.without.items() if count
    ]
    return [*lines, *built.notes, f"next: dstc manifest check {uri}"]


@app.command(
    no_args_is_help=True,
    epilog=help_texts.MANIFEST_CHECK,
)
def check(
    manifest: Annotated[str, typer.Argument(help="Parquet file, folder or glob; path or URL.")],
    images: Annotated[
        str, typer.Option(metavar="N|all|none", help="Rows whose images are read.")
    ] = "100",
    preset: Annotated[str, typer.Option(help="Whose size and fit images get.")] = "tiny64",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As `dstc translate` would take it."),
    ] = None,
    column: Column = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    allow_local: AllowLocal = None,
    allow_private_hosts: AllowPrivateHosts = False,
    max_image_bytes: MaxImageBytes = MAX_IMAGE_BYTES,
) -> None:
    """Says all that is wrong with a manifest, and what a run of it would cost."""
    import dataclasses
    import json

    from dstc.manifests.check import check_manifest
    from dstc.manifests.show import print_checked
    from dstc.planning.settings import make_settings

    most = {"all": None, "none": 0}.get(images, images)
    if isinstance(most, str) and not (most.isascii() and most.isdigit()):
        raise SettingsError(f"--images: found {images!r}; expected a number, all or none")
    settings = make_settings(
        manifest=manifest,
        output=".",
        columns=read_key_values(column or [], "--column"),
        preset=preset,
        set=read_key_values(set_ or []),
        allow_local=tuple(allow_local or ()),
        allow_private_hosts=allow_private_hosts,
        max_image_bytes=max_image_bytes,
    )
    found = _checked(check_manifest, settings, None if most is None else int(most))
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print_checked(found)
    raise typer.Exit(NO_MANIFEST if found.schema else BAD_ROWS if found.has_bad_rows else 0)


@app.command(no_args_is_help=True, epilog=help_texts.MANIFEST_SHOW)
def show(
    manifest: Annotated[str, typer.Argument(help="Parquet file, folder or glob; path or URL.")],
    rows: Annotated[int, typer.Option(help="First rows to show.", min=0)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Shows the columns and first rows of a manifest."""
    import json

    from dstc.manifests.show import print_shown, read_manifest
    from dstc.store.urls import absolute

    found = _checked(read_manifest, absolute(manifest), rows)
    if as_json:
        print(json.dumps(found, default=str))
    else:
        print_shown(found)


def _checked(action: Callable[[Any, Any], Any], of: Any, number: int | None) -> Any:
    """What the action gives; the error for what is no manifest says how to make one of it."""
    from dstc.manifests.build_hint import with_hint
    from dstc.store import storage

    uri = of if isinstance(of, str) else of.manifest
    try:
        return action(of, number)
    except ManifestError as error:
        raise with_hint(error, uri) from error
    except OSError as error:
        raise storage.unanswered(uri, error) from error
