"""Configuration of an evaluation: the preset's own networks, or others, told apart by sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dstc.errors import JobError, SettingsError
from dstc.evaluate import EvaluateOptions, evaluate, evaluation_config
from dstc.evaluation.load_models import load_evaluation_models
from dstc.store import storage
from dstc_engine.errors import WeightsError
from dstc_engine.presets import FFHQ256_IMAGE, TINY64
from dstc_engine.weights.registry import REGISTRY
from tests.unit.dstc.evaluation.conftest import MakeRun


def config(preset: Any = TINY64, **options: Any) -> Any:
    return evaluation_config(EvaluateOptions("run", **options), preset, {})


def test_the_networks_of_the_preset_measure_unless_others_are_named() -> None:
    own = config()
    assert (own.dino, own.clip, own.identity) == ("emoji64-vit", "emoji64-clip", "")
    assert own.sums["emoji64-vit"] == REGISTRY["emoji64-vit"].sha256
    assert (config(dino="none").dino, config(clip="none").clip) == ("", "")
    assert config(replace(TINY64, weight_clip=0.0)).clip == ""
    with pytest.raises(WeightsError, match="unknown weights 'nosuch'"):
        config(dino="nosuch")
    with pytest.raises(WeightsError, match="no file"):  # before Ray starts
        config(FFHQ256_IMAGE, dino="none", clip="none")
    # On a cluster the actors may have what this machine lacks.
    far = config(FFHQ256_IMAGE, dino="none", clip="none", address="ray://x:1")
    assert far.identity == FFHQ256_IMAGE.arcface


def test_another_file_is_another_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "inception.pth"
    file.write_bytes(b"a")
    first = config(inception=str(file), lpips=f"alex={file}")
    file.write_bytes(b"b")
    second = config(inception=str(file), lpips=f"alex={file}")
    assert first.inception == second.inception and first.record != second.record
    assert first.lpips == f"alex={file}"
    assert "Inception" not in first.set_network and "inception" in first.set_network
    with pytest.raises(SettingsError, match="--inception .*gone: there is no such file"):
        config(inception=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmentation": "background"}, "--segmentation: found 'background'; expected foreground"),
        ({"segmentation": "foreground:300"}, "--segmentation: found 'foreground:300'"),
        ({"masks": "mask"}, "--masks: expected --segmentation"),
        ({"where": {"a": "b"}}, "--where: expected --reference"),
        ({"lpips": "alex"}, "--lpips: found 'alex'; expected alex=FILE"),
        ({"inception": "s3://key:secret@bucket/x"}, "--inception"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        config(**options)
    assert "secret" not in str(caught.value)


def test_judges_are_loaded_as_named() -> None:
    models = load_evaluation_models(config(clip="none", segmentation="foreground:200"), "cpu")
    assert models.dino is not None and models.clip is None and models.segmentation is not None
    assert models.dino.size == 64 and not models.dino.training


def test_storage_that_does_not_answer_is_told_in_a_line(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run([])
    Path(run.part(0)).unlink()
    assert evaluate(EvaluateOptions(run.uri))["rows"] == 0

    def refuse(*arguments: object) -> None:
        raise ConnectionError("s3://bucket/x?signature=abc refuses")

    monkeypatch.setattr(storage, "write_bytes", refuse)
    with pytest.raises(JobError, match="storage does not answer: ConnectionError") as caught:
        evaluate(EvaluateOptions(run.uri))
    assert "abc" not in str(caught.value)
