"""Images of any source as trainings read them: fitted to their square, in one Parquet.

A run's images are read once, before anything trains, and kept: it goes on with the same ones in the
same order, and all workers read one file. In memory are all of them as PNG, at 64 pixels some 6 kB
each; the training itself takes 12 kB for one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import ManifestError, SettingsError
from dstc.manifests.training_rows import TrainingRows, Wanted
from dstc.manifests.training_split import TrainingImage, parted
from dstc.store import storage, urls
from dstc.store.manifest import open_parquet
from dstc.store.retries import STEADY
from dstc.text import redact
from dstc_engine.training.images import OWN

COLUMNS = ("content", "caption", "look", "pair", "split")
"""What trainings read of a row; `--column` says what the source calls it."""
LEAST = 16
"""Different images to train on."""


def prepare_images(wanted: Wanted, uri: str) -> list[str]:
    """Writes the images to the Parquet `uri`, or finds them there; returns what is to be told.

    Raises:
        ManifestError: no images, too few, too many that cannot be read, or no captions.
        SettingsError: an unknown column, or other images are there.
        OutputError: storage takes no more.

    Example:
        prepare_images(Wanted("pics/", size=64), "runs/prior/images.parquet")
    """
    urls.refuse_credentials(wanted.data, "--data")
    identity = json.dumps(asdict(wanted), sort_keys=True).encode()
    if storage.exists(uri):
        with open_parquet(uri, redact(uri)) as (there, _):
            found = (there.schema_arrow.metadata or {}).get(OWN)
        if found != identity:
            raise SettingsError(
                f"{redact(uri)}: holds the images of another --data, --column or --fit; expected "
                "another folder for a new run, or this file removed"
            )
        return [f"the images that were read before; to read them again, remove {redact(uri)}"]
    for new, old in wanted.columns.items():
        if new not in COLUMNS:
            raise SettingsError(
                f"--column {new}={old}: no training reads {new!r}; expected one of "
                + ", ".join(COLUMNS)
            )
    rows = TrainingRows(wanted)
    images, told = parted(list(rows.read()))
    notes = [*told, *rows.notes()]
    different = len({image.digest for image in images if image.split == "train"})
    val = sum(image.split == "val" for image in images)
    if different < LEAST or not val:
        raise ManifestError(
            f"--data {redact(wanted.data)}: found {different:,} different images to train on and "
            f"{val:,} for validation; expected at least {LEAST} and 1"
            + "".join(f"; {note}" for note in notes)
        )
    buffer = io.BytesIO()
    pq.write_table(_table(images).replace_schema_metadata({OWN: identity}), buffer)
    with storage.writing_output(uri):
        storage.write_bytes(uri, buffer.getvalue(), STEADY)
    return [f"{len(images) - val:,} images to train on, {val:,} for validation", *notes]


def _table(images: Sequence[TrainingImage]) -> pa.Table:
    ids = [f"{number}: {image.name}" for number, image in enumerate(images)]
    subjects = [image.caption or key for key, image in zip(ids, images, strict=True)]
    columns = {
        "id": ids,
        "subject": subjects,
        "name": [image.caption for image in images],
        "group": [""] * len(images),
        "style": [image.look for image in images],
        "split": [image.split for image in images],
        "pair": [image.pair for image in images],
    }
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    no_words: list[list[str]] = [[] for _ in images]
    table = table.append_column("keywords", pa.array(no_words, pa.list_(pa.string())))
    return table.append_column("png", pa.array([image.png for image in images], pa.binary()))
