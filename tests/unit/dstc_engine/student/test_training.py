"""Training on tiny networks: it learns, resumes to the bit, and ends in a student that loads."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dstc_engine.errors import UserError, WeightsError
from dstc_engine.image import decode
from dstc_engine.presets import get_preset
from dstc_engine.student.encoders import StudentEncoders, load_encoders
from dstc_engine.student.engine import StudentEngine
from dstc_engine.student.finish import finish_student
from dstc_engine.student.load import load_student
from dstc_engine.student.looks import Looks
from dstc_engine.student.pairs import Pairs, PairsBuilder
from dstc_engine.student.selection import astray, select
from dstc_engine.student.training import StudentTraining, new_record, train_student
from dstc_engine.tensors import to_tensor
from tests.unit.dstc_engine import tiny
from tests.unit.dstc_engine.student.tiny_student import asking, encoders

DEMO = Path(__file__).parents[4] / "manifests" / "demo"
SHARED = ("ice-cream.png", "teddy-bear.png")  # drawn in both styles
PILOT = {"run_id": "a-run", "fingerprint": "f" * 8}
HOW = StudentTraining(
    steps=4, batch=4, warmup=1, channels=8, embedding=8, least_rows=5, val_share=0.3,
    feature_every=2, feature_rows=2, bf16=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def seen() -> StudentEncoders:
    return encoders()


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Two looks: one darkens its contents, the other turns them into their negative."""
    builder = PairsBuilder(tiny.PRESET, HOW.val_share)
    for n in range(40):
        request = asking("text" if n % 2 else "both", n % 2, content=n)
        content = request.content
        result = 255 - content if n % 2 else content // 2
        builder.add(request, result.astype(np.uint8), style="bear.png")
    return builder.build(HOW.least_rows)


def _train(out: Path, pairs: Pairs, seen: StudentEncoders, **changes: object) -> Path:
    how = dataclasses.replace(HOW, **changes)  # type: ignore[arg-type]
    record = new_record(pairs, tiny.PRESET, seen, PILOT)
    return train_student(pairs, tiny.PRESET, seen, record, out, how)


def test_the_pairs_nearest_to_content_and_look_are_kept(seen: StudentEncoders) -> None:
    builder = PairsBuilder(tiny.PRESET, HOW.val_share)
    for n in range(24):
        for look in range(2):
            request = asking("image", look, content=n)
            assert request.style is not None
            # A third of the results are the content under a breath of the style; others are noise.
            blended = 0.9 * request.content + 0.1 * request.style
            result = blended if n % 3 == 0 else 255.0 * (tiny.image(500 + n + look) > 127)
            builder.add(request, result.astype(np.uint8), style=f"style-{look}.png")
    pairs = builder.build(HOW.least_rows)
    described = torch.stack(
        [Looks(seen, tiny.PRESET).describe(e.look, e.request) for e in pairs.examples]
    )
    kept = select(pairs, seen, described, keep=0.25)
    assert len(kept.rows(val=True)) == len(pairs.rows(val=True)), "all of val tell of the teacher"
    for look in range(2):
        before, after = (each.rows(val=False, look=look) for each in (pairs, kept))
        assert len(after) == -(-len(before) // 4)
        contents, results = kept.batch(after)
        near = ((contents - results).abs().mean(dim=(1, 2, 3)) < 0.2).float().mean()
        assert near > 0.8
    assert select(pairs, seen, described, keep=1.0) is pairs


def test_results_that_go_the_prompts_way_are_told_from_those_that_do_not() -> None:
    flat, glossy = (
        torch.stack([to_tensor(decode((DEMO / style / name).read_bytes())) for name in SHARED])
        for style in ("fluent_flat", "fluent_3d")
    )
    seen = load_encoders(get_preset("tiny64"))
    words = {"prompt": "glossy 3d render", "source_prompt": "flat colour shapes"}
    (there,) = astray(seen, flat, glossy, asking("text", 1, **words))
    (back,) = astray(seen, glossy, flat, asking("text", 1, **words))
    assert there.shape == (len(SHARED),)
    assert (there < 0.9).all() and (back > 1.1).all()
    assert not astray(seen, flat, glossy, asking("image", 1))


def test_a_student_learns_two_looks(tmp_path: Path, pairs: Pairs, seen: StudentEncoders) -> None:
    # Networks that have learned nothing see no looks: their losses count for little here.
    little = {"keys": 0.02, "cls": 0.02, "structure": 0.02, "contrast": 1e-4, "look": 1e-3}
    weights = _train(
        tmp_path,
        pairs,
        seen,
        **{f"weight_{name}": weight for name, weight in little.items()},
        steps=150,
        batch=8,
        peak_rate=5e-3,
        ema=0.9,
    )
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    contents, results = pairs.batch(pairs.rows(val=True))
    assert float(rows[-1]["val_l1"]) < 0.5 * float((contents - results).abs().mean())
    assert all(rows[-1][name] for name in ("keys", "cls", "structure", "contrast", "look"))
    assert list((tmp_path / "samples").glob("*.png"))

    with pytest.raises(WeightsError, match="training has not ended"):
        load_student(tmp_path, tiny.PRESET, seen)
    record = new_record(pairs, tiny.PRESET, seen, PILOT)
    compared = finish_student(tmp_path, pairs, seen, record)
    student = load_student(tmp_path, tiny.PRESET, seen)
    assert weights.name == "student.safetensors"
    assert [look.prompt for look in student.record.looks] == ["look 0", "look 1"]
    # One look has a style image and a prompt, the other a prompt alone.
    assert [len(look.limits) for look in student.record.looks] == [4, 3]
    for found, look in zip(compared, student.record.looks, strict=True):
        assert found.key == look.key and found.rows >= 3
        assert 0 <= found.fallback <= 1 and set(found.difference) >= {"structure", "sharpness"}
        low, high = found.student["l1"][1:]
        assert low <= found.student["l1"][0] <= high
    card = (tmp_path / "card.md").read_text()
    assert "prompt `look 1`" in card and "| structure |" in card and "a-run" in card
    metrics = json.loads((tmp_path / "student.json").read_text())["metrics"]
    assert metrics["val"][0]["fallback"] == compared[0].fallback and "val_l1" in metrics

    engine = StudentEngine(student, 4)
    for look in (0, 1):
        engine.add(asking("text" if look else "both", look, content=77))
    darker, negative = (t.image for t in engine.step())
    assert darker is not None and negative is not None
    content = asking("text", 1, content=77).content.astype(int)
    assert np.abs(negative - (255 - content)).mean() < np.abs(darker - (255 - content)).mean()


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, pairs: Pairs, seen: StudentEncoders
) -> None:
    whole = load_file(_train(tmp_path / "whole", pairs, seen))
    # Stopped by its minutes after the first step, not by another length, which the rate follows.
    record = new_record(pairs, tiny.PRESET, seen, PILOT)
    for _ in range(10):
        train_student(pairs, tiny.PRESET, seen, record, tmp_path / "cut", HOW, minutes=1e-9)
        description = json.loads((tmp_path / "cut" / "student.json").read_text())
        if description["steps"] == HOW.steps:
            break
    cut = load_file(tmp_path / "cut" / "student.safetensors")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_without_weights_the_networks_are_not_asked(
    tmp_path: Path, pairs: Pairs, seen: StudentEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {f"weight_{name}": 0.0 for name in ("keys", "cls", "structure", "contrast", "look")}
    monkeypatch.setattr("dstc_engine.student.training.see", None)
    assert _train(tmp_path, pairs, seen, steps=2, **none)


def test_a_folder_of_another_student_is_refused(
    tmp_path: Path, pairs: Pairs, seen: StudentEncoders
) -> None:
    _train(tmp_path, pairs, seen, steps=1)
    with pytest.raises(UserError, match="give another folder for a new student, or the same run"):
        _train(tmp_path, pairs, seen, channels=16)
    record = new_record(pairs, tiny.PRESET, seen, {**PILOT, "fingerprint": "another"})
    with pytest.raises(UserError, match="of another run .pilot differs"):
        train_student(pairs, tiny.PRESET, seen, record, tmp_path, HOW)


@pytest.mark.parametrize(
    "changes", [{"val_share": 0.0}, {"val_share": 1.0}, {"steps": 0}, {"feature_every": 0}]
)
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        StudentTraining(**changes)  # type: ignore[arg-type]
