"""A student of 16 pixels with random weights, and its encoders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from dstc_engine.encoders.dino import Dino
from dstc_engine.request import TranslationRequest
from dstc_engine.student.description import KnownLook, StudentRecord
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.looks import Looks
from dstc_engine.student.network import StudentConfig, StudentNetwork
from dstc_engine.student.save import finish_description
from dstc_engine.training.records import save_weights
from tests.unit.dstc_engine import tiny

SUMS = {"dino-vitb8": "0" * 64, "tiny": "1" * 64}
# A gate that nothing fails.
OPEN = {"structure": 100.0, "style_cls": 100.0, "clip": 100.0, "blur": 100.0}


def encoders(clips: bool = True) -> StudentEncoders:
    return StudentEncoders(
        dino=Dino(tiny.make_vit(), tiny.SIZE, -1, tiny.MEAN, tiny.STD),
        clips=(tiny.make_clip(),) if clips else (),
        sums=SUMS if clips else {"dino-vitb8": SUMS["dino-vitb8"]},
    )


def network(looks: int, features: int, seed: int = 7) -> StudentNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = StudentNetwork(
            StudentConfig(
                image_size=tiny.SIZE,
                features=features,
                looks=looks,
                channels=8,
                multipliers=(1, 2),
                embedding=8,
            )
        )
    tiny.awaken(made, seed)
    return made


def asking(kind: str, look: int, content: int = 0, **changes: Any) -> TranslationRequest:
    """A request of kind "text", "image" or "both" for one of many looks."""
    fields: dict[str, Any] = dict(
        id=f"{kind}-{look}-{content}",
        content=tiny.image(100 + content),
        seed=content,
        prompt=f"look {look}" if kind != "image" else None,
        style=tiny.image(200 + look) if kind != "text" else None,
    )
    return TranslationRequest(**(fields | changes))


def write_student(
    folder: Path,
    seen: StudentEncoders,
    asked: list[TranslationRequest],
    limits: dict[str, float] | None = None,
    **changes: Any,
) -> Path:
    """A student of the looks of these requests, as training leaves one; its folder."""
    looks = Looks(seen, tiny.PRESET)
    described = torch.stack([looks.describe(looks.of(request), request) for request in asked])
    made = network(len(asked), looks.features)
    made.looks.copy_(described)
    fields: dict[str, Any] = dict(
        preset=dataclasses.asdict(tiny.PRESET),
        networks=dict(seen.sums),
        pilot={"run_id": "a-run", "fingerprint": "f" * 8},
        looks=tuple(
            KnownLook(
                key=looks.of(request).key,
                style=None,
                prompt=request.prompt,
                pairs=3,
                limits=OPEN if limits is None else limits,
            )
            for request in asked
        ),
    )
    record = StudentRecord(**(fields | changes))
    folder.mkdir(parents=True, exist_ok=True)
    architecture = dataclasses.asdict(made.config)
    save_weights(folder, "student", made.state_dict(), {"architecture": architecture})
    finish_description(folder, record, {"l1": 0.1})
    return folder
