"""The judges of an evaluation, loaded where they look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dstc.errors import SettingsError
from dstc.evaluation.plan import Judging
from dstc.store import retries, storage, weights_bucket
from dstc.text import redact
from dstc_engine.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from dstc_engine.metrics.judges import Judges
    from dstc_engine.metrics.segmentation import Segmentation
    from dstc_engine.metrics.style_classifier import StyleClassifier


def load_judges(judging: Judging, device: str, classifier: StyleClassifier | None = None) -> Judges:
    """The networks that judge.

    Raises:
        WeightsError: missing or wrong weights. JobError: their bucket does not answer.
    """
    import torch

    from dstc_engine.metrics.inception import load_inception
    from dstc_engine.metrics.judges import Judges
    from dstc_engine.metrics.perceptual import load_lpips
    from dstc_engine.weights.load import load_arcface, load_clip, load_dino

    for name in filter(None, (judging.dino, judging.clip, judging.identity)):
        weights_bucket.bring_one(name)
    where = torch.device(device)
    dino = clip = arcface = lpips = inception = None
    if judging.dino:
        dino = load_dino(judging.dino, judging.dino_size, judging.dino_layer)
    if judging.clip:
        clip = load_clip(judging.clip)
    if judging.identity:
        arcface = load_arcface(judging.identity, judging.identity_crop)
    for network in filter(None, (dino, clip, arcface)):
        network.eval().requires_grad_(False).to(where)
    if judging.lpips:
        name, _, uri = judging.lpips.partition("=")
        lpips = load_lpips(name, _read(uri), where)
    if judging.inception:
        inception = load_inception(_read(judging.inception), where)
    return Judges(
        dino=dino,
        clip=clip,
        arcface=arcface,
        segmentation=_segmentation(judging.segmentation, where),
        lpips=lpips,
        classifier=classifier,
        set_features=inception,
        device=where,
    )


def foreground_level(segmentation: str) -> int | None:
    """The level of white of "foreground[:LEVEL]"; None where a network is named.

    Raises:
        SettingsError: neither.
    """
    from dstc_engine.metrics.segmentation import WHITE

    name, _, level = segmentation.partition(":")
    if name == "foreground" and "=" not in segmentation:
        if not level:
            return WHITE
        if level.isdecimal() and 1 <= int(level) <= 255:
            return int(level)
    elif all(segmentation.partition("=")):
        return None
    raise SettingsError(
        f"--segmentation: found {segmentation!r}; expected foreground, foreground:LEVEL with a "
        "level of 1 to 255, or NETWORK=FILE"
    )


def _segmentation(text: str, device: torch.device) -> Segmentation | None:
    from dstc_engine.metrics.segmentation import foreground, torchvision_network

    if not text:
        return None
    level = foreground_level(text)
    if level is not None:
        return foreground(level)
    name, _, uri = text.partition("=")
    return torchvision_network(name, _read(uri), device)


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri, retries.STEADY)
    except FileNotFoundError as error:
        raise WeightsError(f"{redact(uri)}: no such file; it holds weights") from error
