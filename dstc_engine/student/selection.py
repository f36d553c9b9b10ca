"""Which of a teacher's results a student learns from: of each look those that hit it best.

Where guidance misses a look in part of its tries, a student of all tries learns the mean of hits
and misses. N pairs, L looks.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dstc_engine.request import TranslationRequest
from dstc_engine.student.encoders import StudentEncoders
from dstc_engine.student.gates import measure_pairs
from dstc_engine.student.pairs import Pairs

# Of a style image, and of the content; how sharp a result is says nothing of either.
_JUDGED = ("style_cls", "structure")
# Images that CLIP sees at once.
_BATCH = 8


def select(pairs: Pairs, encoders: StudentEncoders, described: Tensor, keep: float) -> Pairs:
    """The pairs without those of the training that are far from look and content.

    A pair's place is the mean of its ranks, in its look, by its distance to the style image, by how
    far it went astray from the prompt, and by its structure distance to the content: distances of
    different scales then count alike, and one that is far in either is not kept for being near in
    the other. Pairs to validate on all stay: they tell of the whole teacher.

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
        values += astray(encoders, contents, results, pairs.examples[number].request)
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


@torch.no_grad()
def astray(
    encoders: StudentEncoders, contents: Tensor, results: Tensor, request: TranslationRequest
) -> list[Tensor]:
    """How far from the prompt's way results went: for each CLIP model (N,); none without a prompt.

    One minus the cosine of the change of an image's embedding to that from source prompt to prompt
    (Gal et al. 2022, "StyleGAN-NADA": directional CLIP loss). Guidance brings all results about as
    near to the prompt itself; where from and which way tells them apart. Of 256 results of
    "soft shaded drawing", 23 % of them right, the fifth nearest to the prompt has 16 % right ones,
    that whose change goes its way 47 %.

    Args:
        contents, results: (N, 3, S, S) in [-1, 1]. request: any that asks for the look; without a
            source prompt the way is to the prompt.
    """
    if request.prompt is None:
        return []
    found = []
    for number, clip in enumerate(encoders.clips):
        way = encoders.text(request.prompt)[number]
        if request.source_prompt is not None:
            way = way - encoders.text(request.source_prompt)[number]
        before, after = (
            torch.cat([clip.embed_image(some.to(way.device)) for some in torch.split(each, _BATCH)])
            for each in (contents, results)
        )
        found.append(1 - F.cosine_similarity(after - before, way[None], dim=-1).cpu())
    return found
