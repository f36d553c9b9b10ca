"""Draws columns of a training log against the steps, as the small PNG files of the model card.

python docs/plot_curves.py runs/vit/log.csv docs/img/vit-losses.png loss_keys loss_crops
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 14, 34
COLORS = ("#1b6ca8", "#d1495b", "#2e933c", "#8f5db7", "#e08e1b", "#555555")

Points = list[tuple[float, float]]


def read_log(path: Path, columns: list[str], over: str = "step") -> dict[str, Points]:
    """(step, value) of each column, where it was measured; a repeated step keeps its last row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, Points] = {}
    for column in columns:
        values = {float(row[over]): float(row[column]) for row in rows if row.get(column)}
        if not values:
            raise SystemExit(f"{path}: nothing measured in column {column}; it has {list(rows[0])}")
        found[column] = sorted(values.items())
    return found


def draw_curves(curves: dict[str, Points], log_scale: bool, over: str = "step") -> Image.Image:
    """One plot of all curves over shared axes, with a legend on the right."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    steps = [step for points in curves.values() for step, _ in points]
    values = [value for points in curves.values() for _, value in points]
    low = min(values) if log_scale else min(0.0, *values)
    high, last = max(values), max(steps)
    bend = math.log if log_scale else float
    spread = (bend(high) - bend(low)) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (bend(value) - bend(low)) / spread * (HEIGHT - TOP - BOTTOM)
        return x, y

    for tick in range(5):
        share = tick / 4
        if log_scale:
            value = math.exp(math.log(low) + share * spread)
        else:
            value = low + share * (high - low)
        x, y = place(share * last, value)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], fill="#e4e4e4")
        pen.text((LEFT - 6, y), f"{value:.3g}", fill="#444444", font=font, anchor="rm")
        label = (x, HEIGHT - BOTTOM + 6)
        pen.text(label, f"{share * last:.0f}", fill="#444444", font=font, anchor="mt")
    middle = ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4)
    pen.text(middle, over, fill="#444444", font=font, anchor="mb")
    for place_in_legend, (name, points) in enumerate(curves.items()):
        color = COLORS[place_in_legend % len(COLORS)]
        line = [place(step, value) for step, value in points]
        pen.line(line, fill=color, width=2)
        if len(line) < 12:
            for x, y in line:
                pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=color)
        y = TOP + 8 + 18 * place_in_legend
        pen.line([(WIDTH - RIGHT + 10, y), (WIDTH - RIGHT + 26, y)], fill=color, width=2)
        shown = name.removeprefix("val_").replace("self_similarity", "self-sim")
        pen.text((WIDTH - RIGHT + 31, y), shown, fill="#222222", font=font, anchor="lm")
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("columns", nargs="+")
    parser.add_argument("--log-scale", action="store_true")
    parser.add_argument("--over", default="step", help="column of the horizontal axis (step)")
    args = parser.parse_args()
    image = draw_curves(read_log(args.log, args.columns, args.over), args.log_scale, args.over)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(32).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
