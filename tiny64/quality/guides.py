"""Whether a style is missed since a guide is fooled, or since the chain does not get there.

    dstc emoji build data
    python -m tiny64.quality.guides data/emoji-64.parquet --work emoji-benchmark --split val

On aligned pairs the right answer is known: the same subject in the target style. Of it, of the
content and of the result, each guide's own loss is told: the distance of class tokens for rows with
a style image, CLIP's for rows with a prompt. A guide that finds the result better than the answer
was fooled, and better training of it would help; one that finds the answer better was not heeded,
and the step, the prior or the other losses held the chain back. A guide that finds the content
better than the answer does not know the style at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.table import print_table
from dstc.options import read_key_values
from dstc_engine.guidance.conditions import encode_conditions
from dstc_engine.image import fit
from dstc_engine.losses.clip_direction import clip_direction_loss
from dstc_engine.losses.style import style_cls_loss
from dstc_engine.models import Models, load_models
from dstc_engine.presets import Preset, get_preset, with_fields
from dstc_engine.request import ImageArray
from dstc_engine.tensors import to_tensor
from tiny64.quality.__main__ import fit_classifier
from tiny64.quality.images import read_images, translate_missing
from tiny64.quality.measures import Array
from tiny64.quality.rows import BenchmarkRow, benchmark_rows, group_of
from tiny64.quality.ways import WHOLE

SEEN = ("content", "result", "answer")


@torch.no_grad()
def guide_losses(
    models: Models, preset: Preset, row: BenchmarkRow, result: ImageArray
) -> dict[str, float]:
    """The loss that guided this row, unweighted and of whole images, for each of SEEN.

    Args:
        row: of an aligned pair. models: with a ViT, and CLIP models for rows with a prompt.
    """
    assert row.truth is not None
    conditions, _ = encode_conditions(models, preset, row.request)
    seen = (row.request.content, result, row.truth)
    images = torch.stack([to_tensor(fit(each, preset.image_size, preset.fit)) for each in seen])
    if row.request.style is not None:
        assert models.dino is not None
        losses = style_cls_loss(models.dino(images).cls, conditions.style_cls)
    else:
        of_models = [
            clip_direction_loss(clip.embed_image(images)[:, None], target)
            for clip, target in zip(models.clips, conditions.clip_targets, strict=True)
        ]
        losses = torch.stack(of_models).mean(0)
    return dict(zip(SEEN, losses.tolist(), strict=True))


def lines(
    rows: Sequence[BenchmarkRow], losses: Sequence[dict[str, float]], right: Array
) -> list[list[str]]:
    """A line of the table for each task and pair of styles.

    Args:
        losses: of `guide_losses`. right: 1 where the result has the target style, else 0.
    """
    found = {name: np.array([each[name] for each in losses]) for name in SEEN}
    groups = np.array([f"{row.task.split(',')[0]}: {group_of(row)}" for row in rows])
    made = []
    for group in dict.fromkeys(groups.tolist()):
        here = groups == group
        content, result, answer = (found[name][here] for name in SEEN)
        means = [f"{values.mean():.3f}" for values in (content, result, answer)]
        shares = (right[here], answer < content, answer < result)
        made.append([group, str(here.sum()), *means, *(f"{share.mean():.2f}" for share in shares)])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="where images are kept")
    parser.add_argument("--rows", type=int, default=48, help="of each of the two tasks (48)")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--preset", default="tiny64")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--slots", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    drawings = pq.read_table(arguments.data).to_pylist()
    drawn = benchmark_rows(drawings, arguments.rows, arguments.split)
    rows = [row for row in drawn if row.truth is not None]
    preset = with_fields(get_preset(arguments.preset), read_key_values(arguments.set))
    models = load_models(preset)
    translate_missing(models, preset, {WHOLE: {}}, rows, arguments.work, arguments.slots)
    images = read_images(WHOLE, rows, arguments.work)
    predicted = fit_classifier(drawings).predict(images)
    right = np.array([style == row.target for style, row in zip(predicted, rows, strict=True)])
    losses = [guide_losses(models, preset, *pair) for pair in zip(rows, images, strict=True)]
    columns = ["rows", *(f"loss of {name}" for name in SEEN)]
    columns += ["style right", "answer beats content", "answer beats result"]
    print_table(["guide, styles", *columns], lines(rows, losses, right.astype(float)))


if __name__ == "__main__":
    main()
