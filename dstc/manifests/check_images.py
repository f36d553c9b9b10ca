"""Reads images of rows as the job would, and looks at them: missing, damaged, cut off, tiny."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from dstc.manifests.findings import Findings
from dstc.store.input_policy import InputPolicy
from dstc.store.inputs import read_input
from dstc.worker.image_cache import ImageCache
from dstc.worker.row import Failed, Rejected, Row, load_request
from dstc_engine.errors import UserError

if TYPE_CHECKING:
    from dstc_engine.decoding.read import Decoded

_READERS = 8
# Rows that are underway at once.
_AHEAD = 4 * _READERS
_STYLE_BYTES = 64 << 20
# Of a content: more than this share of its area lies outside the square that is translated.
_MUCH_CUT = 0.4


@dataclass
class Looked:
    """Images that were read.

    Attributes:
        rows: whose images were read. sizes: (width, height) of each content, in pixels.
        cut: share of each that `fit=crop` leaves out, 0 .. 1.
    """

    rows: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Of the sizes: least, middle and most, and what is cut off."""
        if not self.sizes:
            return {"rows": self.rows}
        sides = [min(size) for size in self.sizes]
        return {
            "rows": self.rows,
            "least": list(min(self.sizes, key=min)),
            "most": list(max(self.sizes, key=max)),
            "median_shorter_side": statistics.median(sides),
            "cut_mean": statistics.fmean(self.cut),
            "cut_most": max(self.cut),
        }


def check_images(
    rows: Iterable[Row],
    folder: str,
    policy: InputPolicy,
    size: int,
    fit: str,
    findings: Findings,
) -> Looked:
    """Reads content, style and mask of each row.

    Args:
        rows: that passed `check_rows`. folder: what their URIs start at.
        policy: what they may name.
        size: pixels of a result's side. fit: "crop" or "pad", of the preset.
        findings: to add to.
    """
    styles: ImageCache[Decoded] = ImageCache(_STYLE_BYTES)
    caches = {"style": styles}
    looked = Looked()

    def look(row: Row) -> tuple[Row, Any]:
        try:
            return row, load_request(row, folder, lambda uri: read_input(uri, policy), caches)
        except (Rejected, Failed) as error:
            return row, error
        except UserError as error:
            return row, Rejected("bad_request", str(error))

    with ThreadPoolExecutor(_READERS) as pool:
        for row, found in _in_order(pool, look, rows):
            looked.rows += 1
            if isinstance(found, Rejected | Failed):
                findings.add(found.reason, f"{row.id!r}: {found}")
                continue
            height, width = found.content.shape[:2]
            looked.sizes.append((width, height))
            _judge(row, found, size, fit, looked, findings)
    return looked


def _in_order(pool: ThreadPoolExecutor, look: Any, rows: Iterable[Row]) -> Iterator[Any]:
    """As `pool.map`, which would take all rows at once."""
    waiting = iter(rows)
    underway = [pool.submit(look, row) for row in islice(waiting, _AHEAD)]
    while underway:
        yield underway.pop(0).result()
        underway += [pool.submit(look, row) for row in islice(waiting, 1)]


def _judge(row: Row, found: Any, size: int, fit: str, looked: Looked, findings: Findings) -> None:
    width, height = looked.sizes[-1]
    cut = 1 - min(width, height) / max(width, height)
    looked.cut.append(cut)
    if fit == "crop" and cut > _MUCH_CUT:
        findings.add(
            "much_cut_off",
            f"{row.id!r}: {width} x {height}: the square in the middle leaves out {cut:.0%}; "
            "--set fit=pad keeps all",
            is_fault=False,
        )
    if min(width, height) < size:
        findings.add(
            "enlarged",
            f"{row.id!r}: {width} x {height}, enlarged to {size} x {size}",
            is_fault=False,
        )
    pixels = found.content
    if (pixels == pixels[0, 0]).all():
        findings.add(
            "one_color", f"{row.id!r}: every pixel is {pixels[0, 0].tolist()}", is_fault=False
        )
    if found.note:
        findings.add("assumed", f"{row.id!r}: {found.note}", is_fault=False)
