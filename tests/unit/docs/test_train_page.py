"""docs/train-your-own.md: its commands run in order, with networks of full size and few steps."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import dstc
from dstc import train as train_module
from dstc.cli import main
from dstc.options import Device
from dstc.train import TrainingPlan, train
from tests.unit.dstc.test_train_own_images import draw, write_folder

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "train-your-own.md").read_text()


def test_the_page_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shortly(plan: TrainingPlan, address: str | None) -> Path:
        return train(replace(plan, steps=1, batch=2, device=Device.cpu), address)

    monkeypatch.setattr(train_module, "train", shortly)
    # Some 900 denoisings at full size; tests/unit/dstc_engine/training look at it.
    monkeypatch.setattr("dstc_engine.training.prior.evaluate", lambda ema, val, sheet: {})
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "pics")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "alt_text"])
        for number in range(20):
            draw(tmp_path / f"photos/{number}.png", number)
            rows.writerow([f"photos/{number}.png", f"thing {number}"])
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) == 5
    for program, *arguments in commands:
        assert program == "dstc"
        if arguments[0] == "translate":
            arguments.append("--dry-run")
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, arguments
    assert "runs/prior/prior.json" in capsys.readouterr().out
    # The networks of the page's last command make an image.
    fields = dict(text.split("=") for text in commands[-1] if "runs/" in text)
    image = dstc.translate_image(
        Image.open("pics/moss/0.png"), prompt="a drawing of moss", set={**fields, "skip": "23"}
    )
    assert image.size == (64, 64)
