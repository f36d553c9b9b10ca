"""What translated images are worth as training data: a classifier of one style tried on another.

    python -m tiny64.quality.student data/emoji-64.parquet --work student-benchmark
    python -m tiny64.quality.augmentation data/emoji-64.parquet --work student-benchmark

Labelled are the flat drawings of the student benchmark's pilot; what is to be told is an emoji's
group (animals, food, ...) on glossy drawings of subjects that no network has seen (val and test). A
small network is trained on the flat drawings as they are, with color jitter, with RandAugment
(Cubuk et al. 2020), with their guided translations, with the student's, with both kinds of
augmentation together, and, as the most that translation could reach, with the glossy drawings of
the same subjects. All see as many images. Accuracy in percent: mean over seeds of the training,
with a 95 % bootstrap interval over test subjects, and the same of differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

import dstc
from benchmarks.table import print_table
from dstc_engine.engine import translate
from dstc_engine.image import decode
from dstc_engine.presets import get_preset
from dstc_engine.request import ImageArray, TranslationRequest
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.load import load_student
from tiny64.quality.__main__ import cell
from tiny64.quality.measures import Array
from tiny64.quality.student import LOOKS, images_of

LOOK = "gloss-by-image"
OWN, TARGET = LOOKS[LOOK].own, LOOKS[LOOK].target
STEPS, BATCH = 500, 32
Images = Sequence[ImageArray]


class Classifier(nn.Sequential):
    """Three convolutions at half the size, and a linear layer: (B, 3, 64, 64) -> (B, classes)."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for before, after in ((3, 16), (16, 32), (32, 64)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, classes)
        )


def as_bytes(images: Images) -> Tensor:
    """(N, 3, 64, 64) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def train(
    pools: Sequence[Tensor], labels: Tensor, augment: Callable[[Tensor], Tensor], seed: int
) -> Classifier:
    """A network trained for STEPS batches, each half mirrored.

    Args:
        pools: images of the same subjects in one or more forms; each draw takes one of them.
    """
    torch.manual_seed(seed)
    network = Classifier(int(labels.max()) + 1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    forms = torch.stack(list(pools))
    for _ in range(STEPS):
        place = torch.randint(len(labels), (BATCH,))
        images = forms[torch.randint(len(forms), (BATCH,)), place]
        images = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, images.flip(3), images)
        batch = torch.stack([augment(image) for image in images]).float() / 255
        loss = functional.cross_entropy(network(batch), labels[place], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval()


def student_images(student: Path, rows: Mapping[str, ImageArray], style: ImageArray) -> Images:
    """Contents in the student's look."""
    engine: Any = StudentEngine(load_student(str(student), get_preset("tiny64")), 64, judges=False)
    requests = [
        TranslationRequest(id=row_id, content=content, seed=0, style=style)
        for row_id, content in rows.items()
    ]
    made = {ended.id: ended.image for ended in translate(engine, requests)}
    return [image for row_id in rows if (image := made[row_id]) is not None]


def keep(image: Tensor) -> Tensor:
    """No augmentation."""
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Parquet of `dstc emoji build`")
    parser.add_argument("--work", type=Path, required=True, help="of tiny64.quality.student")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each way (5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    drawings = {(r["subject"], r["style"]): r for r in pq.read_table(arguments.data).to_pylist()}
    groups = sorted({row["group"] for row in drawings.values()})

    guided = images_of(dstc.open_run(arguments.work / "pilot"))
    prefix = f"{LOOK}-"
    subjects = [i.removeprefix(prefix) for i in guided if i.startswith(prefix)]
    contents = {s: decode(drawings[s, OWN]["png"]) for s in subjects}
    style = decode((arguments.work / f"{TARGET}.png").read_bytes())
    labels = torch.tensor([groups.index(drawings[s, OWN]["group"]) for s in subjects])
    flat = as_bytes(list(contents.values()))
    by_guidance = as_bytes([guided[prefix + s] for s in subjects])
    by_student = as_bytes(student_images(arguments.work / "student", contents, style))
    real = as_bytes([decode(drawings[s, TARGET]["png"]) for s in subjects])

    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    randaugment = v2.RandAugment(fill=255)
    ways: dict[str, tuple[Sequence[Tensor], Callable[[Tensor], Tensor]]] = {
        "as they are": ([flat], keep),
        "color jitter": ([flat], jitter),
        "RandAugment": ([flat], randaugment),
        "guided translations": ([flat, by_guidance], keep),
        "the student's": ([flat, by_student], keep),
        "RandAugment and the student's": ([flat, by_student], randaugment),
        "glossy drawings of the same subjects": ([flat, real], keep),
    }
    unseen = [
        row
        for (_, drawn_in), row in drawings.items()
        if drawn_in == TARGET and row["split"] in ("val", "test")
    ]
    tried = as_bytes([decode(row["png"]) for row in unseen]).float() / 255
    truth = torch.tensor([groups.index(row["group"]) for row in unseen])
    right: dict[str, Array] = {}
    for way, (pools, augment) in ways.items():
        hits = []
        for seed in range(arguments.seeds):
            network = train(pools, labels, augment, seed)
            with torch.no_grad():
                hits.append((network(tried).argmax(dim=1) == truth).double().numpy())
        right[way] = np.mean(hits, axis=0)
    first = right["as they are"]
    print_table(
        [
            f"trained on {len(subjects)} subjects, {len(unseen)} tried",
            "right, %",
            "more than as they are",
        ],
        [
            [way, cell(100 * of, "percent"), cell(100 * (of - first), "percent")]
            for way, of in right.items()
        ],
    )


if __name__ == "__main__":
    main()
