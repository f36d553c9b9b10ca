"""Which of a teacher's results a student learns from: of each look those that hit it best.

Where guidance misses a look in part of its tries, a student of all tries learns the mean of hits
and misses. N pairs, L looks.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.gates import measure_pairs
from dstc_engine.student.pairs import Pairs

# What tells of the look, and what of the content; how sharp a result is says nothing of either.
_JUDGED = ("style_cls", "clip", "structure")


def select(pairs: Pairs, encoders: StudentEncoders, described: Tensor, keep: float) -> Pairs:
    """The pairs without those of the training that are far from look and content.

    A pair's place is the mean of its ranks, in its look, by each distance that the look has:
    distances of different scales then count alike, and one that is far in either is not kept for
    being near in the other. Pairs to validate on all stay: they tell of the whole teacher.

    Args:
        described: (L, F) of the looks. keep: share of a look's pairs to train on that stays, above
            0 to 1.

    Example:
        half = select(pairs, encoders, described, keep=0.5)
    """
    if keep == 1:
        return pairs
    stays = pairs.in_val.clone()
    for number in range(len(pairs.examples)):
        rows = pairs.rows(val=False, look=number)
        contents, results = pairs.batch(rows)
        looks = described[number].expand(len(rows), -1)
        found = measure_pairs(encoders, contents, results, looks)
        values = [torch.from_numpy(found[name]) for name in _JUDGED]
        ranks = [each.argsort().argsort() for each in values if not each.isnan().all()]
        place = torch.stack(ranks).double().mean(dim=0)
        stays[rows[place.argsort(stable=True)[: math.ceil(keep * len(rows))]]] = True
    kept = stays.nonzero()[:, 0]
    return dataclasses.replace(
        pairs,
        contents=pairs.contents[kept],
        results=pairs.results[kept],
        looks=pairs.looks[kept],
        in_val=pairs.in_val[kept],
    )
