"""Ends a training: gates learned, the student compared with its teacher, the card written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from dstc_engine.student.card import write_card
from dstc_engine.student.description import StudentRecord
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.load import load_network
from dstc_engine.student.names import KIND
from dstc_engine.student.pairs import Pairs
from dstc_engine.student.save import finish_description
from dstc_engine.student.validate import Comparison, compare, with_limits

CARD = "card.md"


@torch.no_grad()
def finish_student(
    folder: Path,
    pairs: Pairs,
    encoders: StudentEncoders,
    record: StudentRecord,
) -> list[Comparison]:
    """Makes what `train_student` left in a folder a student that `load_student` takes.

    Args:
        folder: with weights and description. The others as in `train_student`.

    Returns:
        Student against teacher, look by look.

    Raises:
        WeightsError: what lies there is no student.
    """
    description = json.loads((folder / f"{KIND}.json").read_text())
    network = load_network(folder / f"{KIND}.safetensors", description, str(folder))
    network.eval().requires_grad_(False).to(encoders.device)
    record = with_limits(record, pairs, encoders, network.looks)
    compared = compare(network, record, pairs, encoders)
    metrics = {**description["metrics"], "val": [asdict(each) for each in compared]}
    path = finish_description(folder, record, metrics)
    write_card(folder / CARD, record, compared, json.loads(path.read_text()))
    return compared
