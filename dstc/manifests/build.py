"""Builds a manifest: rows of other forms, each content paired with styles and prompts.

`build_manifest` is the table of contents. Rows are read once and kept on local disk as they are
(`spool.py`), since ids, prompts and types need to know all columns; images that come as bytes are
written on the way (`image_store.py`). In memory are a piece of the rows, and some 70 bytes for each
id and 100 for each image written.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.columns import (
    IMAGE_COLUMNS,
    as_known,
    hint_for,
    image_columns,
    moved_uri,
    read_columns,
    rebased,
    renamed,
)
from dstc.manifests.ids import UniqueIds, safe_id, stem
from dstc.manifests.image_files import is_image
from dstc.manifests.image_store import ImageStore
from dstc.manifests.pairing import Pairing, Target
from dstc.manifests.prompts import Template
from dstc.manifests.source import NAME, Source
from dstc.manifests.spool import Spool
from dstc.manifests.writer import ordered, write_manifest
from dstc.store import storage, urls
from dstc.text import redact

# Rows of the spool that are paired at a time.
_PIECE = 4096


@dataclass(frozen=True)
class BuildOptions:
    """What a manifest is made of.

    Attributes:
        output: URI of the Parquet file to write.
        columns: names of columns in the manifest, by what the source calls them.
        styles: URIs of style images. prompts, source_prompts: templates.
        pair: how contents get them; `pairing.EXPECTED`. seed: of random.
        replaces: whether `output` may be there already.
    """

    output: str
    columns: Mapping[str, str] = field(default_factory=dict)
    styles: Sequence[str] = ()
    prompts: Sequence[str] = ()
    source_prompt: str | None = None
    pair: str | None = None
    seed: int = 0
    replaces: bool = False


@dataclass
class Built:
    """What was written.

    Attributes:
        uri: of the manifest. contents: rows read. rows: rows written. columns: of the manifest.
        images: cells whose image was written. files: as how many files. folder: of those.
        changed_ids: contents whose id is not their name. repeated_ids: those that got a number.
        without: rows without a value, by column. notes: of the readers.
    """

    uri: str
    contents: int = 0
    rows: int = 0
    columns: Sequence[str] = ()
    images: int = 0
    files: int = 0
    folder: str = ""
    changed_ids: int = 0
    repeated_ids: int = 0
    without: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_manifest(sources: Sequence[Source], options: BuildOptions) -> Built:
    """Writes a manifest of the rows of these sources.

    Raises:
        ManifestError: a source cannot be read, or has other columns than needed.
        SettingsError: options that cannot be used, or not together.
        OutputError: storage takes no more.

    Example:
        build_manifest(find_sources(["pics/"]), BuildOptions("rows.parquet", prompts=["an oil"]))
    """
    options, pairing, templates = _checked(options)
    built = Built(options.output)
    name = posixpath.basename(options.output).removesuffix(".parquet") + ".images"
    folder = urls.parent(options.output)
    built.folder = urls.join(folder, name)
    store = ImageStore(built.folder)
    with tempfile.TemporaryDirectory(prefix="dstc-rows-") as place:
        spool = Spool(Path(place))
        try:
            for source in sources:
                _read_into(spool, source, options, templates, store)
                built.notes += source.notes
        finally:
            store.close()
        built.images, built.files = store.images, store.files
        if not spool.rows:
            raise ManifestError(f"{_named(sources)}: found no rows; expected at least 1")
        _check_columns(spool.schema.names, templates, pairing, options, _named(sources))
        rows = _Rows(spool, options, pairing, built, _named(sources))
        built.contents = spool.rows
        built.rows = write_manifest(options.output, rows.tables(), rows.schema)
        built.columns = ordered(rows.schema).names
        built.repeated_ids = rows.ids.repeated
    return built


def _checked(options: BuildOptions) -> tuple[BuildOptions, Pairing, list[Template]]:
    output = urls.absolute(options.output)
    if not output.endswith(".parquet"):
        raise SettingsError(f"--output {redact(options.output)}: expected a name in .parquet")
    if not options.replaces and storage.exists(output):
        raise SettingsError(
            f"--output {redact(options.output)}: is there already; expected another name, or "
            "--replace. A run that began with it takes the new one with --append alone"
        )
    read_columns(options.columns)
    prompts = [Template(text) for text in options.prompts]
    source = options.source_prompt
    others = [Template(source, "--source-prompt")] if source else []
    pairing = Pairing(options.pair, options.styles, prompts, options.seed)
    return replace(options, output=output), pairing, [*prompts, *others]


def _named(sources: Sequence[Source]) -> str:
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return redact(sources[0].uri) + more


# --- reading --------------------------------------------------------------------------------------


def _read_into(
    spool: Spool,
    source: Source,
    options: BuildOptions,
    templates: Sequence[Template],
    store: ImageStore,
) -> None:
    place = redact(source.uri)
    if source.columns is not None:  # before the first image is written
        empty = pa.table({name: pa.array([], pa.string()) for name in source.columns})
        if "content" in {*source.columns, *options.columns}:
            found = renamed(empty, options.columns, place).schema.names
            for template in templates:
                template.check({*found, NAME})
    for table in source.read():
        table = renamed(table, options.columns, place)
        held = image_columns(table)
        table = store.written(table, held, source.folder)
        table = as_known(table, place)
        folder = urls.parent(options.output)
        spool.add(rebased(table, {*IMAGE_COLUMNS, *held}, source.folder, folder), place)


def _check_columns(
    names: Sequence[str],
    templates: Sequence[Template],
    pairing: Pairing,
    options: BuildOptions,
    place: str,
) -> None:
    for template in templates:
        template.check({*names, NAME})
    if pairing.column and pairing.column not in names:
        raise SettingsError(
            f"--pair by:{pairing.column}: there is no such column; found {', '.join(names)}"
        )
    has_style = bool(options.styles) or "style" in names
    if not has_style and not options.prompts and "prompt" not in names:
        raise ManifestError(
            f"{place}: neither style nor prompt: expected --style FILE, --prompt TEXT, or a "
            f"column: {hint_for('prompt', list(names))}"
        )


# --- ids, styles and prompts ----------------------------------------------------------------------


class _Rows:
    """The rows of the spool with their ids, styles and prompts."""

    def __init__(
        self, spool: Spool, options: BuildOptions, pairing: Pairing, built: Built, place: str
    ) -> None:
        self._spool, self._pairing, self._built = spool, pairing, built
        folder = urls.parent(options.output)
        self._styles = {uri: moved_uri(uri, folder, folder) for uri in options.styles}
        self._has_prompts = bool(options.prompts)
        source = options.source_prompt
        self._source = Template(source, "--source-prompt") if source else None
        self.ids = UniqueIds()
        names = spool.schema.names
        # The name that an id was made of; a column of theirs that is called so stays.
        self._kept = "original_name" if NAME in names and "id" in names else NAME
        needed = {name for template in self._templates(options) for name in template.names}
        self._needed = [n for n in names if n in {*needed, pairing.column}]
        self._width = max(5, len(str(spool.rows)))
        self._place = place

    def _templates(self, options: BuildOptions) -> list[Template]:
        return [*map(Template, options.prompts), *([self._source] if self._source else [])]

    @property
    def schema(self) -> pa.Schema:
        """Of the manifest."""
        kinds = {field.name: field.type for field in self._spool.schema}
        kinds["id"] = kinds[self._kept] = pa.string()
        if self._styles:
            kinds["style"] = pa.string()
        if self._has_prompts:
            kinds["prompt"] = pa.string()
        if self._source:
            kinds["source_prompt"] = pa.string()
        for name in IMAGE_COLUMNS:  # a column without a value has no type of its own
            if name in kinds:
                kinds[name] = pa.string()
        return pa.schema(list(kinds.items()))

    def tables(self) -> Iterator[pa.Table]:
        """The rows, content by content."""
        number = 0
        for whole in self._spool.tables():
            for start in range(0, len(whole), _PIECE):
                piece = whole.slice(start, _PIECE)
                yield self._paired(piece, number)
                number += len(piece)

    def _paired(self, piece: pa.Table, number: int) -> pa.Table:
        names = self._names(piece, number)
        records = piece.select(self._needed).to_pylist()
        places: list[int] = []
        ids: list[str] = []
        kept: list[str] = []
        targets: list[Target] = []
        source_prompts: list[str | None] = []
        prompts: list[str | None] = []
        for place, (name, record) in enumerate(zip(names, records, strict=True)):
            short = stem(name) if is_image(name) else name
            base = safe_id(short)
            self._built.changed_ids += base != short
            base = self.ids.take(base)
            row: Mapping[str, Any] = {NAME: name, **record}
            for target in self._pairing.targets(base, number + place, row):
                places.append(place)
                ids.append(base + target.suffix if self._pairing.gives_several else base)
                kept.append(name)
                targets.append(target)
                prompts.append(target.prompt.fill(row) if target.prompt else None)
                source_prompts.append(self._source.fill(row) if self._source else None)
        columns = {n: piece.column(n) for n in piece.schema.names}
        taken = pa.array(places, pa.int64())
        found = {name: column.take(taken) for name, column in columns.items()}
        found |= {"id": pa.array(ids, pa.string()), self._kept: pa.array(kept, pa.string())}
        if self._styles:
            styles = [target.style and self._styles[target.style] for target in targets]
            found["style"] = pa.array(styles, pa.string())
        if self._has_prompts:
            found["prompt"] = pa.array(prompts, pa.string())
            self._count_without("prompt", prompts)
        if self._source:
            found["source_prompt"] = pa.array(source_prompts, pa.string())
            self._count_without("source_prompt", source_prompts)
        schema = self.schema
        self._built.without["content"] = (
            self._built.without.get("content", 0) + found["content"].null_count
        )
        return pa.table([found[n].cast(schema.field(n).type) for n in schema.names], schema=schema)

    def _count_without(self, column: str, values: Sequence[str | None]) -> None:
        missing = sum(value is None for value in values)
        self._built.without[column] = self._built.without.get(column, 0) + missing

    def _names(self, piece: pa.Table, number: int) -> list[str]:
        """What each id is made of: the id that is there, else the image's name, else its place."""
        columns = piece.schema.names
        found: list[str | None] = [None] * len(piece)
        # An image that came as bytes has a name made of them, which says nothing.
        for column in ("id", NAME if NAME in columns else "content"):
            if column not in columns or all(found):
                continue
            for place, value in enumerate(piece.column(column).to_pylist()):
                if found[place] is None and value is not None and str(value).strip():
                    text = str(value)
                    found[place] = _name_of_uri(text) if column == "content" else text
        return [
            name if name is not None else f"row-{number + place:0{self._width}d}"
            for place, name in enumerate(found)
        ]


def _name_of_uri(uri: str) -> str:
    """The path where it is relative, else the name of the file alone."""
    is_whole = urls.is_url(uri) or uri.startswith("/")
    return posixpath.basename(uri.partition("?")[0].rstrip("/")) if is_whole else uri
