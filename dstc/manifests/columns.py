"""Columns of other tables as those of a manifest: renamed, as text, URIs moved to its folder."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.source import is_bytes_type, is_image_type
from dstc.store import urls
from dstc.store.cells import is_blank
from dstc.store.manifest import TEXT_COLUMNS
from dstc.store.results import RESERVED_COLUMNS
from dstc.text import redact

IMAGE_COLUMNS = ("content", "style", "mask")
# What columns of content are often called; for hints alone, nothing is taken by its name.
_USUAL = {
    "content": "image image_path img img_path image_file file_name filename file filepath "
    "file_path path uri url image_url image_uri img_url src source input picture photo".split(),
    "prompt": "caption text target_prompt description instruction edit_prompt".split(),
    "style": "style_path style_image reference reference_image".split(),
}


def read_columns(texts: Mapping[str, str]) -> dict[str, str]:
    """`--column NEW=OLD`, checked: names in a manifest by what they are called in the source.

    Raises:
        SettingsError: a name that results use.
    """
    for name in texts:
        if name in RESERVED_COLUMNS:
            raise SettingsError(
                f"--column {name}={texts[name]}: results have a column {name!r}; expected any other"
            )
    return dict(texts)


def usual_name(column: str, found: Sequence[str]) -> str | None:
    """Which of these names a column of a manifest most likely has; None where none is known."""
    by_lower = {name.lower(): name for name in found}
    return next((by_lower[usual] for usual in _USUAL[column] if usual in by_lower), None)


def hint_for(column: str, found: Sequence[str]) -> str:
    """What to do where a column of a manifest is missing."""
    name = usual_name(column, found)
    if name:
        return f"`--column {column}={name}`?"
    return f"name it with --column {column}=NAME"


def renamed(table: pa.Table, columns: Mapping[str, str], place: str) -> pa.Table:
    """The table with columns under the names that a manifest has for them.

    A column of images is the content where there is no other; columns with a name that results
    use are called `manifest_...`.

    Args:
        columns: new names by old. place: names the table in errors.

    Raises:
        ManifestError: a column is not there, or its new name is taken.
    """
    names = table.schema.names
    columns = dict(columns)
    for new, old in columns.items():
        if old not in names:
            raise ManifestError(
                f"{place}: --column {new}={old}: there is no column {old!r}; found "
                + ", ".join(names)
            )
        if new in names and new not in columns.values() and new != old:
            raise ManifestError(
                f"{place}: --column {new}={old}: there is a column {new!r} already; expected "
                f"another name for it, too: --column old_{new}={new}"
            )
    if "content" not in columns and "content" not in names:
        images = [field.name for field in table.schema if is_image_type(field.type)]
        if len(images) == 1:
            columns["content"] = images[0]
        elif images:
            raise ManifestError(
                f"{place}: found {len(images)} columns of images ({', '.join(images)}); expected "
                f"--column content={images[0]} or another of them"
            )
        else:
            raise ManifestError(
                f"{place}: content is missing; {hint_for('content', names)} (found "
                f"{', '.join(names)})"
            )
    moved = set(columns.values())
    found = {new: table.column(old) for new, old in columns.items()}
    for name in names:
        if name not in moved and name not in found:
            new = f"manifest_{name}" if name in RESERVED_COLUMNS else name
            if new in found or (new != name and new in names):
                raise ManifestError(f"{place}: found both {name!r} and {new!r}; expected one")
            found[new] = table.column(name)
    return pa.table(found)


def image_columns(table: pa.Table) -> list[str]:
    """Columns whose bytes are to become files: those of images, and known ones of bytes."""
    return [
        field.name
        for field in table.schema
        if is_image_type(field.type) or (field.name in IMAGE_COLUMNS and is_bytes_type(field.type))
    ]


def as_known(table: pa.Table, place: str) -> pa.Table:
    """The known columns in their types: text, and whole numbers for `seed`; ids of any type.

    Raises:
        ManifestError: one of another type.
    """
    for number, field in enumerate(table.schema):
        if field.name in TEXT_COLUMNS:
            column = _as_text(table.column(number), field, place)
        elif field.name == "seed":
            try:
                column = table.column(number).cast(pa.int64())
            except pa.ArrowException as error:
                raise ManifestError(
                    f"{place}, column 'seed': found {field.type}; expected whole numbers"
                ) from error
        else:
            continue
        table = table.set_column(number, field.name, column)
    return table


def _as_text(column: pa.ChunkedArray, field: pa.Field, place: str) -> pa.ChunkedArray:
    kind = field.type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    if field.name == "id" and not is_text:
        try:
            # pandas makes whole numbers with gaps floats: 1.0 is the id 1.
            if pa.types.is_floating(kind):
                column = column.cast(pa.int64())
            return column.cast(pa.string())
        except pa.ArrowException as error:
            raise ManifestError(
                f"{place}, column 'id': found {field.type}; expected text or whole numbers"
            ) from error
    if not is_text:
        raise ManifestError(
            f"{place}, column {field.name!r}: found {field.type}; expected text"
            + (", the URI of an image" if field.name in IMAGE_COLUMNS else "")
        )
    return column.cast(pa.string())


def rebased(
    table: pa.Table, names: Collection[str], source_folder: str, manifest_folder: str
) -> pa.Table:
    """The table with its URIs as the manifest's folder has them: relative below it, else whole."""
    for number, name in enumerate(table.schema.names):
        if name in names:
            texts = [
                None
                if text is None or is_blank(text)
                else moved_uri(text, source_folder, manifest_folder)
                for text in _texts(table.column(number), name)
            ]
            table = table.set_column(number, name, pa.array(texts, pa.string()))
    return table


def moved_uri(uri: str, source_folder: str, manifest_folder: str) -> str:
    """A URI that is relative to one folder, as one that is relative to another if it lies there.

    Example:
        >>> moved_uri("a.png", "/data/pics", "/data"), moved_uri("a.png", "/pics", "/data")
        ('pics/a.png', '/pics/a.png')
    """
    place = urls.resolve(uri, source_folder)
    if not urls.is_url(place):
        place = posixpath.normpath(place)
    return place.removeprefix(manifest_folder.rstrip("/") + "/")


def _texts(column: pa.ChunkedArray, name: str) -> list[str | None]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError as error:
        raise ManifestError(f"column {name!r}: not UTF-8: {redact(str(error))[:200]}") from error
