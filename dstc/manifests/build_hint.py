"""The command that makes a manifest of what is none: a folder of images, a CSV, other columns."""

from __future__ import annotations

import posixpath
import shlex

from dstc.errors import ManifestError
from dstc.manifests.columns import usual_name
from dstc.manifests.find_sources import SAVE_AS_CSV, WORKBOOK_ENDINGS, find_sources
from dstc.text import redact
from dstc_engine.errors import UserError


def with_hint(error: ManifestError, uri: str) -> ManifestError:
    """The error with the command that helps, where there is one."""
    hint = build_hint(uri)
    # A wrong --column for what is a manifest already: building it once more does not help.
    if not hint or ("--column" in str(error) and not {"--column", "--prompt"} & {*hint.split()}):
        return error
    return ManifestError(f"{str(error).rstrip('.')}. Make a manifest of it: {hint}")


def build_hint(uri: str) -> str | None:
    """A command for the shell, of a workbook with what comes before it.

    None for what `dstc manifest build` does not read.

    Example:
        build_hint("rows.csv") may be
        "dstc manifest build rows.csv -o rows.parquet --column content=image_path --prompt TEXT"
    """
    options = []
    if uri.lower().endswith(WORKBOOK_ENDINGS):
        table = posixpath.splitext(posixpath.basename(uri))[0]
        steps = ["dstc", "manifest", "build", f"{table}.csv", "-o", f"{table}.parquet"]
        return f"{SAVE_AS_CSV}, then {shlex.join(steps)}"
    try:
        (source,) = find_sources([uri])
        names = list(source.columns or next(iter(source.read())).schema.names)
    except (UserError, OSError, StopIteration, ValueError) as error:
        if "--images DIR" not in str(error):
            return None
        options, names = ["--images DIR"], ["content"]
    if "content" not in names:
        options.append(f"--column content={usual_name('content', names) or 'NAME'}")
    if not {"style", "prompt"} & set(names):
        caption = usual_name("prompt", names)
        options.append(f"--column prompt={caption}" if caption else "--prompt TEXT")
    name = posixpath.basename(uri.rstrip("/"))
    stem = name.split("*")[0].split(".")[0] or "rows"
    output = f"{stem}.parquet" if name != f"{stem}.parquet" else f"{stem}.manifest.parquet"
    quoted = [part for option in options for part in map(shlex.quote, option.split(" ", 1))]
    command = shlex.join(["dstc", "manifest", "build", redact(uri), "-o", output])
    return " ".join([command, *quoted])
