"""A page of failures as one PNG: content, what was asked for, result, and what is wrong with it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from dstc_engine.request import ImageArray
from tiny64.quality.rows import TASKS, BenchmarkRow

# Twice the pixels of an image.
_SIDE, _GAP, _MARGIN = 128, 8, 16
_TEXT, _LINE = 13, 17
_COLUMNS, _CASES = 2, 8
_INK, _PALE, _RED = (20, 20, 20), (110, 110, 110), (170, 30, 30)
# OpenMoji's drawings are shared alike: they would bind the licence of the whole page.
_NOT_SHOWN = ("openmoji", "openmoji_line")


@dataclass(frozen=True, eq=False)
class Failure:
    """An image that a judge calls bad.

    Attributes:
        row: what was asked for. image: what came.
        taken_for: style that the classifier sees. overlap: of the silhouettes, 0 .. 1.
        lost_shape: that overlap is too low. flagged: gates that saw it; None when none did.
    """

    row: BenchmarkRow
    image: ImageArray
    taken_for: str
    overlap: float
    lost_shape: bool
    flagged: str | None

    @property
    def wrong(self) -> str:
        """What the judges say."""
        reasons = []
        if self.taken_for != self.row.target:
            reasons.append(
                f"style: {_name(self.row.target)} asked for, looks like {_name(self.taken_for)}"
            )
        if self.lost_shape:
            reasons.append(f"shape: {self.overlap:.0%} of the outline kept")
        return "; ".join(reasons)


def choose(failures: Sequence[Failure]) -> list[Failure]:
    """Some of each task, lost shapes and missed ones first: a rule, so that none is picked."""
    shown = [f for f in failures if not {f.row.own, f.row.target} & set(_NOT_SHOWN)]
    chosen = []
    for task in TASKS:
        of_task = [f for f in shown if f.row.task == task]
        of_task.sort(key=lambda f: (not f.lost_shape, f.flagged is not None))
        chosen += of_task[: _CASES // len(TASKS)]
    return chosen


def failure_sheet(failures: Sequence[Failure]) -> bytes:
    """The page as PNG bytes."""
    cases = choose(failures)
    width = 3 * _SIDE + 2 * _GAP
    height = _SIDE + 4 * _LINE + _GAP
    lines = -(-len(cases) // _COLUMNS)
    size = (
        2 * _MARGIN + _COLUMNS * width + (_COLUMNS - 1) * 2 * _MARGIN,
        2 * _MARGIN + lines * height,
    )
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for number, case in enumerate(cases):
        line, column = divmod(number, _COLUMNS)
        left, top = _MARGIN + column * (width + 2 * _MARGIN), _MARGIN + line * height
        _draw(page, draw, case, left, top)
    file = io.BytesIO()
    page.quantize(256).save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw(page: Image.Image, draw: ImageDraw.ImageDraw, case: Failure, left: int, top: int) -> None:
    request = case.row.request
    for place, image in enumerate((request.content, request.style, case.image)):
        corner = left + place * (_SIDE + _GAP), top
        if image is not None:
            side = (_SIDE, _SIDE)
            page.paste(Image.fromarray(image).resize(side, Image.Resampling.NEAREST), corner)
        else:
            words = textwrap.fill(f'"{request.prompt}"', 18)
            draw.multiline_text((corner[0], top + 30), words, fill=_INK, font=_font(), spacing=3)
    below = top + _SIDE + _GAP // 2
    for line in textwrap.wrap(case.wrong, 58)[:2]:
        draw.text((left, below), line, fill=_RED, font=_font())
        below += _LINE
    label = f"flagged: {case.flagged}" if case.flagged else "no gate saw it"
    draw.text((left, below), label, fill=_PALE, font=_font())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


def _name(style: str) -> str:
    return style.replace("_", " ")
