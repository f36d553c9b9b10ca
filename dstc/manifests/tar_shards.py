"""WebDataset: tar files in which the files of a sample have one name and differ in their endings.

`webdataset` takes them apart; the files themselves are opened here, as all storage is, since it
would start a program for each URL.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from dstc.errors import ManifestError
from dstc.manifests.image_files import is_image
from dstc.manifests.optional import load
from dstc.manifests.source import CHUNK_IMAGES, NAME, Source
from dstc.manifests.table_files import table_of_records
from dstc.store import storage
from dstc.store.image_type import IMAGE
from dstc.text import describe, redact

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
_IMAGE = "content"
# Classes and numbers of samples; other endings are files that a manifest has no column for.
_NUMBERS = frozenset({"cls", "cls2", "index", "inx", "id"})
_TEXTS = frozenset({"txt", "text", "transcript", "caption"})


def tar_shards(files: list[str], folder: str) -> Source:
    """Samples of these tars, in order.

    The only image of a sample is the content, with its key as the name; of several, each is a
    column called by its ending, such as `mask.png`. Columns `txt` and `cls` hold what files of
    these endings do; the fields of a `json` are columns.

    Raises:
        SettingsError: `webdataset` is not installed.
    """
    tariterators = load("webdataset.tariterators", "webdataset", "a WebDataset tar")
    shown = redact(files[0])
    notes: list[str] = []

    def read() -> Iterator[pa.Table]:
        left_out: dict[str, int] = {}
        samples = (_record(sample, left_out, shown) for sample in _samples(tariterators, files))
        while some := list(itertools.islice(samples, CHUNK_IMAGES)):
            yield _table(some, shown)
        notes.extend(f"{n:,} files .{ending} were left out" for ending, n in left_out.items())

    return Source(files[0] if len(files) == 1 else folder, "tars", folder, read, None, notes)


def _samples(tariterators: Any, files: Iterable[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        try:
            with storage.open_input(file) as stream:
                opened = [{"url": file, "stream": stream}]
                entries = tariterators.tar_file_expander(opened)
                yield from tariterators.group_by_keys(entries)
        except ManifestError:
            raise
        except Exception as error:  # of tarfile, of gzip, of webdataset
            raise ManifestError(
                f"{redact(file)}: not a readable tar of samples: {describe(error)}"
            ) from error


def _record(sample: dict[str, Any], left_out: dict[str, int], shown: str) -> dict[str, Any]:
    record: dict[str, Any] = {NAME: sample["__key__"]}
    images = {}
    for ending, data in sample.items():
        if ending.startswith("__"):
            continue
        if is_image(f"x.{ending}"):
            images[ending] = {"bytes": data, "path": f"{sample['__key__']}.{ending}"}
        elif ending == "json":
            record |= _fields(data, record, shown)
        elif ending in _NUMBERS or ending in _TEXTS:
            text = data.decode("utf-8", "replace").strip()
            record[ending] = int(text) if ending in _NUMBERS and text.isdigit() else text
        else:
            left_out[ending] = left_out.get(ending, 0) + 1
    plain = [ending for ending in images if "." not in ending]
    if len(plain) == 1:
        record[_IMAGE] = images.pop(plain[0])
    return {**record, **images}


def _fields(data: bytes, record: dict[str, Any], shown: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{shown}, sample {record[NAME]!r}, json: {error}") from error
    if not isinstance(found, dict):
        return {"json": json.dumps(found)}
    return {
        ("json_" + key if key in (NAME, _IMAGE) else key): value for key, value in found.items()
    }


def _table(records: list[dict[str, Any]], shown: str) -> pa.Table:
    table = table_of_records(records, shown)
    for place, name in enumerate(table.schema.names):
        if name == _IMAGE or is_image(f"x.{name}"):
            values = [record.get(name) for record in records]
            table = table.set_column(place, name, pa.array(values, IMAGE))
    return table
