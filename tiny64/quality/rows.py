"""Rows of the emoji benchmark: test subjects, drawn anew in another vendor's style.

Four tasks. On aligned pairs of styles the same subject in the target style is the ground truth;
between other vendors the drawing differs, and there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dstc_engine.image import decode
from dstc_engine.request import ImageArray, TranslationRequest
from tiny64.captions import STYLE_PHRASES, caption

# Silhouettes overlap by 0.97 and 0.89; those of other pairs of vendors by 0.63 to 0.78.
ALIGNED = (("fluent_flat", "fluent_3d"), ("openmoji", "openmoji_line"))
TASKS = ("image, aligned", "text, aligned", "image, other vendors", "text, other vendors")
# Mean difference of two drawings, in levels of 255: below, OpenMoji has the same drawing in both of
# its sets, and nothing is left to translate.
_SAME = 4.0


@dataclass(frozen=True, eq=False)
class BenchmarkRow:
    """One translation to make.

    Attributes:
        task: of TASKS. number: of the row in it. request: what is asked for.
        own, target: the styles.
        style: an image in the target style, also of rows that do not see it.
        truth: the same subject in the target style, of an aligned pair.
    """

    task: str
    number: int
    request: TranslationRequest
    own: str
    target: str
    style: ImageArray
    truth: ImageArray | None


def benchmark_rows(
    images: Sequence[dict[str, Any]], count: int, split: str = "test", seed: int = 0
) -> list[BenchmarkRow]:
    """So many rows of each task, drawn from a seed; pairs of styles take turns within a task.

    Of more rows the first ones are those of fewer.

    Args:
        images: rows of the emoji data set, `png` as bytes.
    """
    drawings: dict[str, dict[str, dict[str, Any]]] = {style: {} for style in STYLE_PHRASES}
    for image in images:
        if image["split"] == split and image["style"] in drawings:
            drawings[image["style"]][image["subject"]] = image
    subjects = sorted(set.intersection(*map(set, drawings.values())))
    rows = []
    for place, task in enumerate(TASKS):
        rng = np.random.default_rng([seed, place])
        pairs = _pairs("aligned" in task)
        for number in range(count):
            own, target = pairs[number % len(pairs)]
            while True:
                subject, other = rng.choice(subjects, 2, replace=False)
                content, truth = (
                    decode(drawings[style][subject]["png"]) for style in (own, target)
                )
                if np.abs(content.astype(float) - truth).mean() > _SAME:
                    break
            style = decode(drawings[target][other]["png"])
            name = drawings[own][subject]["name"]
            by_text = task.startswith("text")
            request = TranslationRequest(
                id=f"{task.replace(', ', '-').replace(' ', '-')}-{number:03d}",
                content=content,
                seed=int(rng.integers(2**62)),
                style=None if by_text else style,
                prompt=caption(name, target) if by_text else None,
                source_prompt=caption(name, own) if by_text else None,
            )
            has_truth = truth if "aligned" in task else None
            rows.append(BenchmarkRow(task, number, request, own, target, style, has_truth))
    return rows


def group_of(row: BenchmarkRow) -> str:
    """Rows that should not get worse together: of an aligned pair, or of one target of others."""
    is_aligned = (row.own, row.target) in _pairs(aligned=True)
    return f"{row.own} to {row.target}" if is_aligned else f"others to {row.target}"


def _pairs(aligned: bool) -> list[tuple[str, str]]:
    """Ordered pairs of styles: both directions of the aligned ones, or all others."""
    both_ways = [*ALIGNED, *((b, a) for a, b in ALIGNED)]
    if aligned:
        return both_ways
    return [
        (a, b) for a in STYLE_PHRASES for b in STYLE_PHRASES if a != b and (a, b) not in both_ways
    ]
