"""Which form a source has, by its name and, of a folder, by what lies in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dstc.errors import ManifestError
from dstc.manifests import coco, datasets_folder, earlier_run, image_files, table_files, tar_shards
from dstc.manifests.source import Source
from dstc.store import storage, urls
from dstc.store.manifest import TEXT_COLUMNS
from dstc.store.manifest_files import folder_by_name
from dstc.text import describe, redact

EXPECTED = (
    "expected a folder, pattern or file of images (.png, .jpg, ...), a table (.csv, .tsv, .jsonl, "
    ".parquet), COCO (.json), WebDataset (.tar), a folder that `datasets` saved, or a run folder"
)
# Of Excel, LibreOffice and Numbers, which all write CSV, too.
WORKBOOK_ENDINGS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
SAVE_AS_CSV = "save the sheet as CSV (UTF-8)"
_NOT_THERE = "there is no such file or folder"
_QUOTES = "If it is a word of a prompt, quote all of them: --prompt 'an oil painting'"


@dataclass(frozen=True)
class CocoOptions:
    """What COCO needs to be told.

    Attributes:
        images: folder of its images; that of the JSON where there is none.
        masks: categories whose objects are white in masks to write, or "all".
    """

    images: str | None = None
    masks: Sequence[str] = ()


def find_sources(
    texts: Sequence[str],
    columns: Mapping[str, str] | None = None,
    coco_options: CocoOptions | None = None,
) -> list[Source]:
    """The sources that these paths and URLs name; images named one by one are one source.

    Args:
        texts: paths and URLs. columns: of `--column`, since some are text whatever they hold.
        coco_options: for COCO.

    Raises:
        ManifestError: there is nothing of that name, or nothing that is read.
        StorageError: a URL cannot be used.
    """
    found: list[Source] = []
    images = []
    known = {*TEXT_COLUMNS, *(old for new, old in (columns or {}).items() if new in TEXT_COLUMNS)}
    for text in texts:
        uri = urls.absolute(text)
        try:
            if image_files.is_image(uri) and not _is_pattern(uri):
                if not storage.exists(uri):
                    raise ManifestError(f"{redact(text)}: there is no such file")
                images.append(uri)
            else:
                if len(texts) > 1 and not set("./*") & set(text) and not storage.exists(uri):
                    raise ManifestError(f"{redact(text)}: {_NOT_THERE}; {EXPECTED}. {_QUOTES}")
                found.append(_find(uri, known, coco_options or CocoOptions()))
        except OSError as error:
            raise ManifestError(f"{redact(text)}: cannot be read: {describe(error)}") from error
    if images:
        found.insert(0, image_files.images_by_name(images))
    return found


def _find(uri: str, known: Collection[str], coco_options: CocoOptions) -> Source:
    name = uri.lower()
    if storage.is_folder(uri):
        return _of_folder(urls.folder(uri))
    if _is_pattern(uri) and not storage.exists(uri):
        return _of_pattern(uri)
    if not storage.exists(uri):
        raise ManifestError(f"{redact(uri)}: {_NOT_THERE}; {EXPECTED}")
    if name.endswith(".parquet"):
        return table_files.parquet_files(uri)
    if name.endswith(table_files.CSV_ENDINGS):
        return table_files.csv_file(uri, known)
    if name.endswith(tar_shards.TAR_ENDINGS):
        return tar_shards.tar_shards([uri], urls.parent(uri))
    if name.endswith(".json") and not table_files.is_json_lines(uri):
        document = coco.read_json(uri)
        if coco.is_coco(document):
            return coco.coco_file(uri, document, coco_options.images, coco_options.masks)
        if isinstance(document, dict):
            raise ManifestError(
                f"{redact(uri)}: found one JSON object with {', '.join(list(document)[:8])}; "
                "expected one object a line, an array of them, or COCO (images, annotations)"
            )
    if name.endswith(table_files.JSON_ENDINGS):
        return table_files.json_file(uri)
    if name.endswith(WORKBOOK_ENDINGS):
        raise ManifestError(
            f"{redact(uri)}: found a workbook; expected a table in plain text: {SAVE_AS_CSV} and "
            "name that file"
        )
    raise ManifestError(f"{redact(uri)}: not a form that is read by its name; {EXPECTED}")


def _of_folder(folder: str) -> Source:
    if earlier_run.is_run_folder(folder):
        return earlier_run.earlier_run(folder)
    if datasets_folder.is_datasets_folder(folder):
        return datasets_folder.datasets_folder(folder)
    files = storage.find_files(folder, "")
    if any(map(image_files.is_image, files)):
        return image_files.images_of_folder(folder)
    tars = [file for file in files if file.endswith(tar_shards.TAR_ENDINGS)]
    if tars:
        return tar_shards.tar_shards(tars, folder)
    if any(file.endswith(".parquet") for file in files):
        return table_files.parquet_files(folder)
    raise ManifestError(
        f"{redact(folder)}: a folder of {len(files):,} files, none of which is read; {EXPECTED}"
    )


def _of_pattern(uri: str) -> Source:
    name = uri.lower()
    if name.endswith(".parquet"):
        return table_files.parquet_files(uri)
    if name.endswith(tar_shards.TAR_ENDINGS):
        tars = storage.glob_files(uri)
        if not tars:
            raise ManifestError(f"{redact(uri)}: no file matches")
        return tar_shards.tar_shards(tars, folder_by_name(uri))
    return image_files.images_of_pattern(uri)


def _is_pattern(uri: str) -> bool:
    return any(mark in uri for mark in "*?[") and not uri.startswith(("http://", "https://"))
