"""A printable page of a run: content, style and result of some rows, as one PNG of A4 size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from dstc.reporting.cards import Card
from dstc.reporting.thumbnails import Thumbnail

# A4 upright at 200 dots per inch.
DPI = 200
WIDTH, HEIGHT = 1654, 2339
_MARGIN, _GAP, _TITLE = 70, 8, 70
_INK, _PALE, _FRAME = (20, 20, 20), (120, 120, 120), (210, 210, 210)


@dataclass(frozen=True)
class Layout:
    """How rows are laid out: so many columns of cells, each three images wide.

    Attributes:
        columns, lines: of cells. side: of an image, in pixels. text: height of the captions.
    """

    columns: int
    lines: int
    side: int
    text: int

    @property
    def cells(self) -> int:
        """Rows that find a place."""
        return self.columns * self.lines

    @classmethod
    def of(cls, columns: int) -> Layout:
        between = 6 * _GAP
        width = (WIDTH - 2 * _MARGIN - (columns - 1) * between) // columns
        side = (width - 2 * _GAP) // 3
        text = max(11, side // 9)
        lines = (HEIGHT - 2 * _MARGIN - _TITLE) // cls._height(side, text)
        return cls(columns, lines, side, text)

    @classmethod
    def for_rows(cls, rows: int) -> Layout:
        """The one with the largest images that holds so many rows, five columns at most."""
        layouts = [cls.of(columns) for columns in range(2, 6)]
        return next((layout for layout in layouts if layout.cells >= rows), layouts[-1])

    def place(self, number: int) -> tuple[int, int]:
        """Left and top of a cell, line by line."""
        line, column = divmod(number, self.columns)
        width = 3 * self.side + 2 * _GAP
        left = _MARGIN + column * (width + 6 * _GAP)
        return left, _MARGIN + _TITLE + line * self._height(self.side, self.text)

    @staticmethod
    def _height(side: int, text: int) -> int:
        return side + 3 * text + 2 * _GAP


MOST_ROWS = Layout.of(5).cells


def contact_sheet(title: str, cards: Sequence[Card]) -> bytes:
    """The page as PNG bytes; of more than `MOST_ROWS` cards the first ones."""
    layout = Layout.for_rows(len(cards))
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(page)
    _write(draw, (_MARGIN, _MARGIN - 10), title, 34, WIDTH - 2 * _MARGIN, _INK)
    for number, card in enumerate(cards[: layout.cells]):
        left, top = layout.place(number)
        for place, thumbnail in enumerate((card.content, card.style, card.result)):
            corner = left + place * (layout.side + _GAP), top
            _paste(page, draw, thumbnail, corner, layout.side)
        width = 3 * layout.side + 2 * _GAP
        below = top + layout.side + _GAP // 2
        _write(draw, (left, below), card.id, layout.text, width, _INK)
        caption = card.prompt or ("after the style image" if card.style else "")
        if card.status != "done":
            caption = f"{card.status}: {card.reason}"
        _write(draw, (left, below + layout.text + 4), caption, layout.text, width, _PALE)
    file = io.BytesIO()
    page.save(file, "PNG", dpi=(DPI, DPI), optimize=True)
    return file.getvalue()


def _paste(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    thumbnail: Thumbnail | None,
    corner: tuple[int, int],
    side: int,
) -> None:
    """An image in its square; an empty frame where there should be one, nothing where not."""
    if thumbnail is None:
        return
    if thumbnail.data is None:
        draw.rectangle((*corner, corner[0] + side, corner[1] + side), outline=_FRAME)
        return
    packed = base64.b64decode(thumbnail.data.partition(",")[2])
    with Image.open(io.BytesIO(packed)) as opened:
        image = opened.convert("RGB")
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Small ones are shown pixel by pixel, as on the HTML page.
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    page.paste(image.resize(size, how), corner)


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    height: int,
    width: int,
    color: tuple[int, int, int],
) -> None:
    """One line, cut where it would be wider than `width`."""
    font = ImageFont.load_default(height)
    line = " ".join(text.split())
    if draw.textlength(line, font=font) > width:
        while line and draw.textlength(line + "...", font=font) > width:
            line = line[:-1]
        line += "..."
    draw.text(corner, line, fill=color, font=font)
