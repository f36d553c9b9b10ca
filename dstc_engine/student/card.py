"""A student's card: what it was made from, how it does against its teacher, when not to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dstc_engine.student.description import StudentRecord
from dstc_engine.student.distances import DISTANCES
from dstc_engine.student.validate import OTHERS, Comparison, Interval

_MEANINGS = {
    "structure": "distance of self-similarity to the content; lower keeps shapes better",
    "style_cls": "1 - cosine of class tokens, to the style image",
    "clip": "1 - cosine of CLIP embeddings, to the prompt",
    "blur": "gradient energy of the content over the image's",
    "sharpness": "gradient energy, in levels; far below the teacher's is blurred",
    "l1": "mean difference of pixels to the teacher's result, of 2",
}


def write_card(
    path: Path,
    record: StudentRecord,
    compared: Sequence[Comparison],
    description: Mapping[str, Any],
) -> Path:
    """Writes the card as Markdown; returns its path.

    Args:
        record: with the looks' limits. compared: look by look, in its order.
        description: the fields of `student.json`.
    """
    sizes = description["architecture"]
    lines = [
        "# Student",
        "",
        f"Distilled from run `{record.pilot.get('run_id')}` (preset `{record.preset['name']}`, "
        f"{sizes['image_size']} px), {description['steps']} steps of "
        f"{description['training']['batch']} images, {description['seconds']:,.0f} s. "
        f"{description['size'] / 1e6:.2f} MB of weights, sha256 `{description['sha256'][:16]}`.",
        "",
        "It knows the looks below and no others. A row of another look, or one whose image fails a "
        "gate, is for guidance. It keeps shapes where they are: a look that moves them is none for "
        "a student.",
        "",
    ]
    for look, found in zip(record.looks, compared, strict=True):
        asked = [f"style `{look.style}`"] if look.style else []
        asked += [f"prompt `{look.prompt}`"] if look.prompt else []
        lines += [
            f"## Look {look.key}: {', '.join(asked)}",
            "",
            f"{look.pairs} pairs, {found.rows} contents of val that it never saw. Of its images "
            f"there, {found.fallback:.0%} fail a gate"
            + "".join(f"; {name} {share:.0%}" for name, share in found.reasons.items() if share)
            + ".",
            "",
            "| measure | teacher | student | student - teacher | gate |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name in (*DISTANCES, *OTHERS):
            if name not in found.student:
                continue
            limit = look.limits.get(name)
            cells = [
                _shown(each.get(name)) for each in (found.teacher, found.student, found.difference)
            ]
            shown = "" if limit is None else f"{limit:.4g}"
            lines.append(f"| {name} | {' | '.join(cells)} | {shown} |")
        lines.append("")
    lines += [
        "Means over val contents, with 95 % intervals (bootstrap over contents).",
        "",
        *(f"- {name}: {meaning}" for name, meaning in _MEANINGS.items()),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def _shown(found: Interval | None) -> str:
    if found is None:
        return ""
    mean, low, high = found
    return f"{mean:.4g} ({low:.4g} to {high:.4g})"
