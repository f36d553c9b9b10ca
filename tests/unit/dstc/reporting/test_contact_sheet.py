"""The printable page: where rows find a place, what of them is shown, and the file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dstc.reporting.cards import Card
from dstc.reporting.contact_sheet import (
    DPI,
    HEIGHT,
    MOST_ROWS,
    WIDTH,
    Layout,
    contact_sheet,
)
from dstc.reporting.thumbnails import Thumbnail, shrink


def flat(color: tuple[int, int, int], side: int = 64) -> Thumbnail:
    return shrink(np.full((side, side, 3), color, np.uint8), 256)


def card(**changes: Any) -> Card:
    fields: dict[str, Any] = dict(
        id="row", status="done", reason="", error="", prompt="a fox", source_prompt="",
        content=flat((200, 0, 0)), style=None, result=flat((0, 0, 200)), samples=(),
        more_samples=0, flags=(), metrics=(), facts=(), details=(), plots=(),
        resampled=0, search="", sort_values={},
    )  # fmt: skip
    return Card(**(fields | changes))


def page_of(cards: list[Card]) -> Image.Image:
    with Image.open(io.BytesIO(contact_sheet("a run", cards))) as page:
        page.load()
        return page


@pytest.mark.parametrize("rows", [1, 14, 15, 24, 60, MOST_ROWS, 500])
def test_all_rows_that_find_room_lie_within_the_page(rows: int) -> None:
    layout = Layout.for_rows(rows)
    assert layout.cells >= min(rows, MOST_ROWS)
    left, top = layout.place(min(rows, layout.cells) - 1)
    assert left + 3 * layout.side < WIDTH and top + layout.side + 3 * layout.text < HEIGHT
    corners = {layout.place(number) for number in range(layout.cells)}
    assert len(corners) == layout.cells


def test_fewer_rows_are_shown_larger() -> None:
    sides = [Layout.for_rows(rows).side for rows in (8, 24, 60, 200)]
    assert sides == sorted(sides, reverse=True) and sides[0] > 2 * sides[-1]


def test_images_stand_side_by_side_in_their_own_colors() -> None:
    style = flat((0, 200, 0))
    page = page_of([card(), card(style=style)])
    layout = Layout.for_rows(2)
    assert page.size == (WIDTH, HEIGHT)
    assert page.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
    half = layout.side // 2
    for number, middle in ((0, (255, 255, 255)), (1, (0, 200, 0))):
        left, top = layout.place(number)
        step = layout.side + 8
        seen = [page.getpixel((left + n * step + half, top + half)) for n in range(3)]
        assert seen == [(200, 0, 0), middle, (0, 0, 200)]


def test_a_row_without_a_image_tells_why() -> None:
    done = page_of([card()])
    missed = page_of([card(status="failed", reason="non_finite", result=None)])
    layout = Layout.for_rows(1)
    left, top = layout.place(0)
    box = (left, top + layout.side, left + 3 * layout.side, top + layout.side + 3 * layout.text)
    assert done.crop(box).tobytes() != missed.crop(box).tobytes()
    gone = page_of([card(content=Thumbnail(problem="there is no such file"))])
    assert gone.getpixel((left + 20, top + 20)) == (255, 255, 255)
    assert gone.getpixel((left, top + 20)) != (255, 255, 255), "a frame stands in its place"


def test_long_and_strange_texts_stay_in_their_cell() -> None:
    text = "words " * 200 + "\n\t\u202e\U0001f98a"
    page = np.asarray(page_of([card(id=text, prompt=text), card()]))
    layout = Layout.for_rows(2)
    (left, top), (right, _) = layout.place(0), layout.place(1)
    end = left + 3 * layout.side + 2 * 8
    between = page[top : top + layout.side + 4 * layout.text, end + 2 : right - 2]
    assert (between == 255).all()
