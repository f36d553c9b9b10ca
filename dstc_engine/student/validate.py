"""Ends a training: gates from the teacher's results, and the student against them on val.

N pairs, L looks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dstc_engine.metrics.bootstrap import interval
from dstc_engine.student.description import StudentRecord
from dstc_engine.student.distances import DISTANCES
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.gates import failed, learn_limits, measure_pairs
from dstc_engine.student.network import StudentNetwork
from dstc_engine.student.pairs import Pairs
from dstc_engine.student.training import render

Array = npt.NDArray[np.float64]
Interval = tuple[float, float, float]

# Teacher's results of a look that its gates are learned from, and pairs of it that are validated.
_MOST_JUDGED = 1000
# What the table has besides the distances: sharpness in levels, and the difference of pixels.
OTHERS = ("sharpness", "l1")


@dataclass(frozen=True)
class Comparison:
    """A student and its teacher on the val contents of a look.

    Attributes:
        key: of the look. rows: pairs compared.
        teacher, student, difference: mean and 95 % interval of each measure by name; the last is of
            student minus teacher, pair by pair. Measures without values are left out.
        fallback: share of the student's images that fail a gate.
        reasons: that share by gate.
    """

    key: str
    rows: int
    teacher: dict[str, Interval]
    student: dict[str, Interval]
    difference: dict[str, Interval]
    fallback: float
    reasons: dict[str, float]


def with_limits(
    record: StudentRecord, pairs: Pairs, encoders: StudentEncoders, described: Tensor
) -> StudentRecord:
    """The record with the gates of each look, learned from its teacher's results.

    From all of them, evenly spread where there are many: the teacher was trained on none, and a
    quantile of the val split alone, some twenty rows of a small pilot, would be that of its worst.

    Args:
        described: (L, F) of the looks.
    """
    looks = []
    for number, look in enumerate(record.looks):
        rows = _spread((pairs.looks == number).nonzero()[:, 0])
        contents, results = pairs.batch(rows)
        found = measure_pairs(encoders, contents, results, described[number].expand(len(rows), -1))
        limits = learn_limits({name: found[name].tolist() for name in DISTANCES})
        looks.append(dataclasses.replace(look, limits=limits))
    return dataclasses.replace(record, looks=tuple(looks))


def compare(
    network: StudentNetwork, record: StudentRecord, pairs: Pairs, encoders: StudentEncoders
) -> list[Comparison]:
    """The student against its teacher on val contents, look by look.

    Args:
        network: trained, on the encoders' device. record: with the looks' limits.
    """
    return [
        _compare(network, record, pairs, encoders, number) for number in range(len(record.looks))
    ]


def _compare(
    network: StudentNetwork,
    record: StudentRecord,
    pairs: Pairs,
    encoders: StudentEncoders,
    number: int,
) -> Comparison:
    rows = _spread(pairs.rows(val=True, look=number))
    contents, results = pairs.batch(rows)
    looks = network.looks[number].expand(len(rows), -1)
    images = render(network, contents, looks)
    ours = measure_pairs(encoders, contents, images, looks)
    theirs = measure_pairs(encoders, contents, results, looks)
    ours["l1"] = (images.cpu() - results).abs().mean(dim=(1, 2, 3)).double().numpy()
    limits = record.looks[number].limits
    fails = [
        failed({name: float(ours[name][row]) for name in DISTANCES}, limits)
        for row in range(len(rows))
    ]
    return Comparison(
        key=record.looks[number].key,
        rows=len(rows),
        teacher=_intervals(theirs),
        student=_intervals(ours),
        difference=_intervals({name: ours[name] - theirs[name] for name in theirs}),
        fallback=_share([bool(names) for names in fails]),
        reasons={name: _share([name in names for names in fails]) for name in limits},
    )


def _spread(rows: Tensor) -> Tensor:
    """At most _MOST_JUDGED of the rows, evenly spread."""
    if len(rows) <= _MOST_JUDGED:
        return rows
    return rows[torch.arange(_MOST_JUDGED) * len(rows) // _MOST_JUDGED]


def _intervals(measured: dict[str, Array]) -> dict[str, Interval]:
    return {name: interval(v) for name, v in measured.items() if not np.isnan(v).all()}


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
