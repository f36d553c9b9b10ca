"""The commands as functions that print nothing: `translate`, `build_manifest`, `check_manifest`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dstc.driver.progress_calls import Progress, ProgressCalls
from dstc.errors import ManifestError
from dstc.planning.settings import make_settings
from dstc.run_handle import Run

if TYPE_CHECKING:
    from dstc.manifests.build import Built
    from dstc.manifests.check import Checked

Path = str | os.PathLike[str]


def translate(
    manifest: Path,
    output: Path,
    *,
    preset: str = "tiny64",
    set: Mapping[str, object] | None = None,
    distil: Mapping[str, object] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    **options: object,
) -> Run:
    """Translates every row of a manifest into a run folder; called again, it continues.

    A row that fails or is rejected is a row of the results and no exception: look at
    `run.status`. Ray starts for the call, or is the one that runs in this process.

    Args:
        manifest: Parquet file, folder or glob; a local path or any fsspec URL.
        output: the run folder, new or to continue.
        preset: its name. set: fields of it to change.
        distil: with `pilot`, settings of the student's training.
        on_progress: called about once a second, from another thread.
        options: fields of `dstc.Settings`, as the options of `dstc translate`: `slots`, `actors`,
            `seed`, `limit`, `retry`, `address`, `pilot`, ...

    Raises:
        UserError: arguments, manifest, weights or output folder that cannot be used.
        JobError: the job broke; the same call continues it.

    Example:
        run = dstc.translate("rows.parquet", "output", slots=4)
        print(run.status.done, run.table(["id", "image"]).to_pylist())
    """
    from dstc.translate import run_silently

    settings = make_settings(
        manifest=os.fspath(manifest),
        output=os.fspath(output),
        preset=preset,
        set=_as_text(set),
        distil=_as_text(distil),
        **options,
    )
    if settings.pilot is not None:
        from dstc.pilot import run_silently
    run_silently(settings, on_progress and partial(ProgressCalls, on_progress))
    return Run(settings.output)


def build_manifest(
    sources: Path | Sequence[Path],
    output: Path,
    *,
    columns: Mapping[str, str] | None = None,
    styles: Path | Sequence[Path] = (),
    prompts: str | Sequence[str] = (),
    source_prompt: str | None = None,
    pair: str | None = None,
    seed: int = 0,
    images: Path | None = None,
    mask_of: str | Sequence[str] = (),
    masks: Path | None = None,
    replace: bool = False,
) -> Built:
    """Makes a manifest of images and tables as they are, as `dstc manifest build` does.

    Args:
        sources: one or several: folders, patterns or files of images; tables; data sets; runs.
        output: the Parquet file to write.
        columns: names in the manifest, and what the source calls them.
        styles: one or several images, folders or patterns.
        prompts: one or several. They and source_prompt may hold columns in braces.
        pair: "zip", "product", "random:K" or "by:COLUMN". seed: of random.
        images, mask_of: of COCO: the folder of its images; categories to write masks of.
        masks: folder of masks that are named as the contents; sources are images then.
        replace: whether `output` may be there already.

    Raises:
        ManifestError: a source cannot be read, or has other columns than needed.
        SettingsError: options that cannot be used, or not together.

    Example:
        dstc.build_manifest("pics/", "rows.parquet", prompts=["an oil painting"]).rows
    """
    from dstc.manifests.build import BuildOptions
    from dstc.manifests.build import build_manifest as build
    from dstc.manifests.find_sources import CocoOptions, find_sources
    from dstc.manifests.image_files import find_images
    from dstc.manifests.mask_folder import with_masks

    options = BuildOptions(
        output=os.fspath(output),
        columns=dict(columns or {}),
        styles=[uri for style in _several(styles) for uri in find_images(os.fspath(style))],
        prompts=_several(prompts),
        source_prompt=source_prompt,
        pair=pair,
        seed=seed,
        replaces=replace,
    )
    coco = CocoOptions(None if images is None else os.fspath(images), _several(mask_of))
    texts = [os.fspath(source) for source in _several(sources)]
    found = find_sources(texts, options.columns, coco)
    return build(found if masks is None else with_masks(found, os.fspath(masks)), options)


def check_manifest(
    manifest: Path,
    *,
    images: int | None = 100,
    preset: str = "tiny64",
    set: Mapping[str, object] | None = None,
    **options: object,
) -> Checked:
    """Looks for all that is wrong with a manifest, as `dstc manifest check` does.

    Args:
        manifest: Parquet file, folder or glob; a local path or any fsspec URL.
        images: rows whose images are read; None: all; 0: none.
        preset, set, options: as `translate` would take them.

    Raises:
        ManifestError: there is no manifest.
        UserError: options that cannot be used.

    Example:
        found = dstc.check_manifest("rows.parquet")
        print(found.schema, found.has_bad_rows, found.cost)
    """
    from dstc.manifests.build_hint import with_hint
    from dstc.manifests.check import check_manifest as check
    from dstc.store import storage

    settings = make_settings(
        manifest=os.fspath(manifest), output=".", preset=preset, set=_as_text(set), **options
    )
    try:
        return check(settings, images)
    except ManifestError as error:
        raise with_hint(error, settings.manifest) from error
    except OSError as error:
        raise storage.unanswered(settings.manifest, error) from error


def _as_text(fields: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (fields or {}).items()}


def _several(given: Any) -> list[Any]:
    """A text alone would else be taken for a list of its letters."""
    return [given] if isinstance(given, str | os.PathLike) else list(given)
