"""Loads the evaluation models, on the device that they measure on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dstc.errors import SettingsError
from dstc.evaluation.plan import EvaluationConfig
from dstc.store import retries, storage, weights_bucket
from dstc.text import redact
from dstc_engine.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from dstc_engine.metrics.evaluation_models import EvaluationModels
    from dstc_engine.metrics.segmentation import Segmentation
    from dstc_engine.metrics.style_classifier import StyleClassifier


def load_evaluation_models(
    config: EvaluationConfig, device: str, classifier: StyleClassifier | None = None
) -> EvaluationModels:
    """Loads the models that a configuration names.

    Raises:
        WeightsError: missing or wrong weights. JobError: their bucket does not answer.
    """
    import torch

    from dstc_engine.metrics.evaluation_models import EvaluationModels
    from dstc_engine.metrics.inception import load_inception
    from dstc_engine.metrics.perceptual import load_lpips
    from dstc_engine.precision import use_tf32
    from dstc_engine.weights.load import load_arcface, load_clip, load_dino

    for name in filter(None, (config.dino, config.clip, config.identity)):
        weights_bucket.bring_one(name)
    where = torch.device(device)
    if where.type == "cuda":
        use_tf32("fp32")  # numbers that are compared between machines
    dino = clip = arcface = lpips = inception = None
    if config.dino:
        dino = load_dino(config.dino, config.dino_size, config.dino_layer)
    if config.clip:
        clip = load_clip(config.clip)
    if config.identity:
        arcface = load_arcface(config.identity, config.identity_crop)
    for network in filter(None, (dino, clip, arcface)):
        network.eval().requires_grad_(False).to(where)
    if config.lpips:
        name, _, uri = config.lpips.partition("=")
        lpips = load_lpips(name, _read(uri), where)
    if config.inception:
        inception = load_inception(_read(config.inception), where)
    return EvaluationModels(
        dino=dino,
        clip=clip,
        arcface=arcface,
        segmentation=_segmentation(config.segmentation, where),
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
