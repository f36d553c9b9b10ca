"""Trains a student on the pairs of a pilot, by `training.loop.fit`.

The loss is the mean absolute difference to the teacher's results, and, on some images of every few
steps, what the preset's own networks see. The teacher is a chain of random steps; the student
learns what its results for one content have in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.errors import UserError
from dstc_engine.presets import Preset
from dstc_engine.student.description import KnownLook, StudentRecord
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.looks import Looks
from dstc_engine.student.losses import own_losses, see, teacher_losses
from dstc_engine.student.names import KIND
from dstc_engine.student.network import StudentConfig, StudentNetwork, usual_multipliers
from dstc_engine.student.pairs import Pairs
from dstc_engine.student.selection import select
from dstc_engine.training.checkpoint import load_checkpoint
from dstc_engine.training.loop import Recipe, World, decayed_groups, fit, shuffled_rows
from dstc_engine.training.settings import TrainingSettings
from dstc_engine.training.sheet import write_sheet

# Of a sheet, and of the pairs that validation looks at while training goes on.
_SHOWN, _VALIDATED = 12, 64


@dataclass(frozen=True, kw_only=True)
class StudentTraining(TrainingSettings):
    """How a student is trained; `TrainingSettings` has the other fields.

    Attributes:
        warmup: steps over which the rate rises to its peak; it falls by a cosine from there.
        bf16: off, since with so few channels an AVX512-BF16 core is slower in it than in float32.
        channels, embedding: of `StudentConfig`.
        val_share: of the contents, to validate on. least_rows: that each look must have.
        keep: share of each look's pairs to train on, the nearest to look and content (`select`).
        flip: half of the pairs are seen mirrored.
        weight_keys, weight_cls: of `losses.teacher_losses`, beside 1 for pixels.
        weight_structure, weight_contrast, weight_look: of `losses.own_losses`.
        feature_every, feature_rows: how often, and on how many images of a batch, the networks are
            asked; they take most of a step's time. With all weights 0 they never are.
    """

    steps: int = 1800
    batch: int = 8
    peak_rate: float = 1e-3
    warmup: int = 50
    ema: float = 0.995
    bf16: bool = False
    channels: int = 16
    embedding: int = 64
    val_share: float = 0.1
    least_rows: int = 100
    keep: float = 1.0
    flip: bool = True
    # Chosen on val (docs/students.md): with less for the look, the mean of the results goes too
    # short a way from the content; with more, the grid of the ViT's patches shows.
    weight_keys: float = 1.0
    weight_cls: float = 1.0
    weight_structure: float = 1.0
    weight_contrast: float = 0.0
    weight_look: float = 0.5
    feature_every: int = 2
    feature_rows: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise UserError(f"val_share is {self.val_share}; expected a share between 0 and 1")
        if not 0 < self.keep <= 1:
            raise UserError(f"keep is {self.keep}; expected a share above 0, at most 1")
        for name in ("steps", "batch", "least_rows", "feature_every", "feature_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more")

    @property
    def feature_weights(self) -> dict[str, float]:
        """Of the losses that networks see, those that count."""
        names = ("keys", "cls", "structure", "contrast", "look")
        weights = {name: float(getattr(self, f"weight_{name}")) for name in names}
        return {name: weight for name, weight in weights.items() if weight}


def new_record(
    pairs: Pairs, preset: Preset, encoders: StudentEncoders, pilot: dict[str, Any]
) -> StudentRecord:
    """What is known of a student before its training; limits come after it."""
    return StudentRecord(
        preset=asdict(preset),
        networks=dict(encoders.sums),
        pilot=pilot,
        looks=tuple(
            KnownLook(
                key=example.look.key,
                style=example.style,
                prompt=example.look.prompt,
                pairs=int((pairs.looks == number).sum()),
            )
            for number, example in enumerate(pairs.examples)
        ),
    )


def train_student(
    pairs: Pairs,
    preset: Preset,
    encoders: StudentEncoders,
    record: StudentRecord,
    out: str | Path,
    how: StudentTraining | None = None,
    minutes: float = 0,
    world: World | None = None,
) -> Path:
    """Trains, or goes on training, a student; returns the path of its weights.

    Args:
        pairs: of the pilot. preset: the pilot's. encoders: on the world's device.
        record: of `new_record`. out, minutes, world: as in `fit`. how: the settings.

    Raises:
        UserError: the folder holds a student of another pilot or of other settings.
    """
    how, world = how or StudentTraining(), world or World()
    looks = Looks(encoders, preset)
    described = torch.stack([looks.describe(e.look, e.request) for e in pairs.examples])
    config = StudentConfig(
        image_size=preset.image_size,
        features=looks.features,
        looks=len(pairs.examples),
        channels=how.channels,
        multipliers=usual_multipliers(preset.image_size),
        embedding=how.embedding,
    )
    _refuse_another(Path(out), record, config)
    torch.manual_seed(how.seed)
    network = StudentNetwork(config)
    network.looks.copy_(described)
    pairs = select(pairs, encoders, described, how.keep)
    learning = _Learning(pairs, preset, encoders, described, how, world)
    recipe = Recipe(
        kind=KIND,
        network=network,
        architecture=asdict(config),
        settings=how,
        warmup=how.warmup,
        gradient_norm=1.0,
        optimizer=lambda student: torch.optim.AdamW(
            decayed_groups(student, 0.01), lr=how.peak_rate
        ),
        draw=learning.draw,
        losses=learning.losses,
        evaluate=learning.evaluate,
        after_step=lambda: learning.last_seen,
        columns=("loss", "l1", *how.feature_weights, "val_l1"),
        described={KIND: record.to_json()},
    )
    return fit(recipe, out, minutes, world)


def _refuse_another(folder: Path, record: StudentRecord, config: StudentConfig) -> None:
    state = load_checkpoint(folder / "checkpoint.pt")
    if state is None:
        return
    if state["config"] != asdict(config):
        raise UserError(
            f"{folder}: the student there is {state['config']}; expected {asdict(config)}: give "
            "another folder for a new student, or the same run and settings to continue this one"
        )
    described = folder / f"{KIND}.json"
    if not described.is_file():
        return
    there = json.loads(described.read_text()).get(KIND, {})
    ours = record.to_json()
    for name in ("pilot", "preset", "networks"):
        if there.get(name) != json.loads(json.dumps(ours[name])):
            raise UserError(
                f"{folder}: the student there is of another run ({name} differs: "
                f"{str(there.get('pilot')):.200}); give another folder for a new student"
            )


@dataclass(frozen=True, eq=False)
class _Learning:
    """The losses of a step, and what is validated; `last_seen` is for the log."""

    pairs: Pairs
    preset: Preset
    encoders: StudentEncoders
    described: Tensor
    how: StudentTraining
    world: World
    last_seen: dict[str, float] = field(default_factory=dict)

    def draw(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        train, how = self.pairs.rows(val=False), self.how
        drawn = shuffled_rows(len(train), how.batch, step, how.seed, self.world)
        rows = train[drawn]
        contents, results = self.pairs.batch(rows)
        if how.flip:
            mirrored = torch.rand(len(rows), generator=generator) < 0.5
            contents[mirrored] = contents[mirrored].flip(-1)
            results[mirrored] = results[mirrored].flip(-1)
        return contents, results, self.pairs.looks[rows]

    def losses(
        self, forward: Callable[..., Tensor], step: int, batch: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        how, device = self.how, self.world.device
        contents, results = batch[0].to(device), batch[1].to(device)
        looks = self.described[batch[2].to(self.described.device)]
        images = forward(contents, looks).float()
        loss = l1 = F.l1_loss(images, results)
        if how.feature_weights and step % how.feature_every == 0:
            some = slice(how.feature_rows)
            seen = self._seen(images[some], contents[some], results[some], looks[some])
            for name, weight in how.feature_weights.items():
                loss = loss + weight * seen[name]
                self.last_seen[name] = float(seen[name].detach())
        return {"loss": loss, "l1": l1}

    def _seen(
        self, images: Tensor, contents: Tensor, results: Tensor, looks: Tensor
    ) -> dict[str, Tensor]:
        ours, content = self.encoders.dino(images), see(self.encoders, contents)
        temperature = self.preset.contrast_temperature
        found = teacher_losses(ours, see(self.encoders, results))
        return found | own_losses(self.encoders, images, ours, content, looks, temperature)

    def evaluate(self, ema: StudentNetwork, sheet: Path) -> dict[str, float]:
        """Writes a sheet of contents, teacher's results and the student's; returns val metrics."""
        rows = self.pairs.rows(val=True)[:_VALIDATED]
        contents, results = self.pairs.batch(rows)
        images = render(ema, contents, self.described[self.pairs.looks[rows]])
        write_sheet(sheet, [part[:_SHOWN].cpu() for part in (contents, results, images)])
        return {"val_l1": float(F.l1_loss(images.cpu(), results))}


@torch.no_grad()
def render(network: StudentNetwork, contents: Tensor, looks: Tensor, batch: int = 16) -> Tensor:
    """A student's images (N, 3, S, S) in [-1, 1] of contents and looks (N, F), some at a time."""
    device = network.looks.device
    images = [
        network(some.to(device), of.to(device)).float().clamp(-1, 1)
        for some, of in zip(torch.split(contents, batch), torch.split(looks, batch), strict=True)
    ]
    return torch.cat(images)
