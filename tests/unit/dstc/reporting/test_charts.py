from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from dstc.reporting.charts import (
    MAX_POINTS,
    WIDTH,
    band_plot,
    interval_plot,
    line_plot,
    number,
    thin,
)

NAN, INF = math.nan, math.inf


def _drawn(values: list[float], **options: object) -> ElementTree.Element:
    svg = line_plot("loss", values, **options)  # type: ignore[arg-type]
    assert svg is not None
    return ElementTree.fromstring(str(svg))


def _texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter("text")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.209, "-0.209"), (0.03121, "0.0312"), (41.66, "41.7"), (12345, "12,345")]
    + [(100, "100"), (2.1e-7, "2.1e-7"), (-3e12, "-3.0e12"), (NAN, "not finite")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_range_last_value_and_steps_are_labelled() -> None:
    svg = _drawn([4.0, 1.0, 2.0])
    assert _texts(svg) == ["2", "4", "1", "1", "3"]
    assert svg.get("aria-label") == "loss: 1 to 4, ends at 2"
    assert svg.get("role") == "img"


def test_nothing_finite_is_no_plot() -> None:
    assert line_plot("loss", []) is None
    assert line_plot("loss", [NAN, INF, -INF]) is None


def test_gaps_interrupt_the_line() -> None:
    svg = _drawn([NAN, 1.0, 2.0, INF, 3.0, NAN])
    assert len([p for p in svg.iter("path") if p.get("class") == "line"]) == 1
    dots = [circle.get("cx") for circle in svg.iter("circle")]
    assert len(dots) == 2 and len(set(dots)) == 1, "a step alone is a dot, here also the last value"


def test_resample_steps_are_shaded() -> None:
    (band,) = _drawn([1.0] * 11, shaded=4).iter("rect")
    inner = WIDTH - 96
    assert float(band.get("width", "0")) == pytest.approx(inner * 0.35, abs=0.1)
    (band,) = _drawn([1.0], shaded=1).iter("rect")
    assert 0 < float(band.get("width", "0")) < inner


def test_extreme_values_stay_in_the_box() -> None:
    for values in ([1.7e308, -1.7e308, 0.0], [5.0, 5.0], [1e-320, 0.0], [-0.0]):
        svg = _drawn(values)
        for circle in svg.iter("circle"):
            assert 0 <= float(circle.get("cx", "")) <= WIDTH
            assert 0 <= float(circle.get("cy", "")) <= 92


def test_titles_are_escaped() -> None:
    svg = line_plot('<script>"&', [1.0])
    assert svg is not None and "<script>" not in svg
    assert ElementTree.fromstring(str(svg)).get("aria-label", "").startswith('<script>"&')


def test_long_lines_keep_their_ends_peaks_and_troughs() -> None:
    run = [(step, math.sin(step / 50)) for step in range(10_000)]
    run[7777] = (7777, 9.0)
    run[3333] = (3333, -9.0)
    thinned = thin(run)
    assert len(thinned) <= MAX_POINTS + 2
    assert thinned[0] == run[0] and thinned[-1] == run[-1]
    assert {(7777, 9.0), (3333, -9.0)} <= set(thinned)
    assert thinned == sorted(set(thinned))
    assert thin(run[:5]) == run[:5]


def _points(path: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))
    return [(float(x), float(y)) for x, y in pairs]


def test_a_band_holds_its_line() -> None:
    low, middle, high = [1.0, 0.0, 2.0], [2.0, 3.0, 4.0], [5.0, 4.0, 10.0]
    svg = ElementTree.fromstring(str(band_plot("loss", low, middle, high, shaded=1)))
    paths = {path.get("class"): _points(path) for path in svg.iter("path")}
    upper, lower = paths["fill"][:3], paths["fill"][:2:-1][-3:]
    for (x, y), (_, top), (_, bottom) in zip(paths["line"], upper, lower, strict=True):
        assert x in {at for at, _ in upper} and top < y < bottom, "y grows downwards"
    assert _texts(svg) == ["4", "10", "0", "1", "3"]
    assert svg.get("aria-label") == "loss: median ends at 4, 80 % of the rows at 2 to 10"
    assert len(list(svg.iter("rect"))) == 1


def test_a_band_has_gaps_and_an_end() -> None:
    gap = [NAN, 1.0, 2.0, NAN, 3.0, 4.0, NAN]
    svg = ElementTree.fromstring(str(band_plot("loss", gap, gap, gap)))
    assert len([path for path in svg.iter("path") if path.get("class") == "fill"]) == 2
    assert band_plot("loss", [NAN], [NAN], [NAN]) is None
    assert band_plot("loss", [], [], []) is None
    long = [float(n) for n in range(10_000)]
    assert len(str(band_plot("loss", long, long, long))) < 12_000


def test_an_interval_lies_between_the_copies() -> None:
    svg = ElementTree.fromstring(str(interval_plot("a metric", 0.5, 0.4, 0.6, 0.0, 1.0)))
    (dot,) = [c for c in svg.iter("circle") if c.get("class") == "dot"]
    (content,) = [c for c in svg.iter("circle") if c.get("class") == "copy"]
    (style,) = svg.iter("rect")
    ends = [float(at) for at in (content.get("cx"), dot.get("cx"), style.get("x")) if at]
    assert ends == sorted(ends) and len(set(ends)) == 3
    assert interval_plot("a metric", 0.5, 0.4, 0.6) is None, "nothing to compare with"
    assert interval_plot("a metric", 0.5, 0.5, 0.5, 0.5) is None
    assert interval_plot("a metric", 0.5, 0.4, INF, 0.5) is None
    assert interval_plot("a metric", 1.7e308, -1.7e308, 1.7e308, 0.0) is not None
