"""The reference: real images of known style, that results are compared with.

A Parquet file with images in the column `png` or `image`, as bytes or as URIs (relative ones
start at the file), and what style each is of in `style`, where that is known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dstc.errors import SettingsError
from dstc.store import retries, storage, urls
from dstc.store.cells import BadCell, read_cell
from dstc.text import redact
from dstc_engine.request import ImageArray

if TYPE_CHECKING:
    from dstc_engine.metrics.style_classifier import StyleClassifier

# FID is told of 50,000 images by custom; more move it little.
MOST = 50_000
# Images that one task looks at.
CHUNK = 256
_IMAGE_COLUMNS = ("png", "image", "picture")
# Of the emoji, right on 84.5 % of val; on 84.7 % when fitted on 7,218, in 29 s of one core, not 20.
_MOST_FITTED = 5000
# Every so many of the images tells how often the classifier is right.
_HELD_OUT = 10


@dataclass(frozen=True)
class Reference:
    """Images and their styles.

    Attributes:
        images: bytes, or URIs. styles: None where unknown. folder: what relative URIs start at.
    """

    images: Sequence[bytes | str]
    styles: Sequence[str | None]
    folder: str

    def decode(self, number: int, size: int, fit: str) -> ImageArray:
        """An image, fitted as those of the run.

        Raises:
            ImageError, OSError: it cannot be read.
        """
        from dstc_engine.image import decode as decode_image
        from dstc_engine.image import fit as fit_image

        given = self.images[number]
        if isinstance(given, str):
            data = storage.read_bytes(urls.resolve(given, self.folder))
        else:
            data = given
        return fit_image(decode_image(data, f"image {number} of the reference"), size, fit)


def _text(where: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(where.items()))


def read_reference(uri: str, where: Mapping[str, str]) -> Reference:
    """The reference, at most MOST of its images, evenly spread.

    Args:
        where: columns and the values, as text, that rows must have to count.

    Raises:
        SettingsError: no such file, no such column, or no row that counts.
    """
    return _read_reference(uri, _text(where))


@functools.lru_cache(maxsize=1)
def _read_reference(uri: str, where: tuple[tuple[str, str], ...]) -> Reference:
    shown = f"--reference {redact(uri)}"
    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri, retries.STEADY)))
        names = file.schema_arrow.names
        wanted = [*_IMAGE_COLUMNS, "style", *(name for name, _ in where)]
        table = file.read(columns=[name for name in names if name in wanted])
    except FileNotFoundError as error:
        raise SettingsError(f"{shown}: there is no such file") from error
    except pa.ArrowException as error:
        raise SettingsError(f"{shown}: not a Parquet file ({error})") from error
    columns = [name for name in _IMAGE_COLUMNS if name in names]
    unknown = [name for name, _ in where if name not in names]
    if not columns or unknown:
        raise SettingsError(
            f"{shown}: found columns {', '.join(names)}; expected "
            + (", ".join(unknown) if unknown else " or ".join(_IMAGE_COLUMNS))
        )
    counts = np.ones(len(table), bool)
    for name, value in where:
        counts &= np.array([str(read_cell(cell)) == value for cell in table[name]], bool)
    (rows,) = np.nonzero(counts)
    if not len(rows):
        raise SettingsError(f"{shown}: no row of {len(table):,} has {dict(where)}")
    if len(rows) > MOST:
        rows = rows[np.arange(MOST) * len(rows) // MOST]

    def chosen(name: str) -> list[Any]:
        cells = (read_cell(table[name][int(row)]) for row in rows)
        return [cell.text if isinstance(cell, BadCell) else cell for cell in cells]

    styles = chosen("style") if "style" in names else [None] * len(rows)
    return Reference(chosen(columns[0]), styles, urls.parent(uri))


def fit_classifier(reference: Reference, size: int, fit: str) -> tuple[StyleClassifier, float]:
    """Fits a style classifier; also its accuracy on images that it was not fitted on.

    Raises:
        SettingsError: fewer than two styles, or an image that cannot be read.
    """
    from dstc_engine.errors import ImageError
    from dstc_engine.metrics.style_classifier import StyleClassifier

    known = [number for number, style in enumerate(reference.styles) if style is not None]
    if len(known) > _MOST_FITTED:
        known = [known[n * len(known) // _MOST_FITTED] for n in range(_MOST_FITTED)]
    styles = [str(reference.styles[number]) for number in known]
    if len(set(styles)) < 2 or len(known) < 2 * _HELD_OUT:
        raise SettingsError(
            f"--reference: found {len(known)} images of {len(set(styles))} styles; expected a "
            f"column `style` with two styles, and {2 * _HELD_OUT} images, to tell styles by"
        )
    try:
        images = [reference.decode(number, size, fit) for number in known]
    except (ImageError, OSError) as error:
        raise SettingsError(f"--reference: {redact(str(error))}") from error
    # By a step that does not divide: files often list styles in turns.
    held_out = set(np.random.default_rng(0).permutation(len(known))[::_HELD_OUT].tolist())
    fitted = [n for n in range(len(known)) if n not in held_out]
    classifier = StyleClassifier([images[n] for n in fitted], [styles[n] for n in fitted])
    asked = sorted(held_out)
    predicted = classifier.predict([images[n] for n in asked])
    right = float(np.mean([a == styles[n] for a, n in zip(predicted, asked, strict=True)]))
    return classifier, right
