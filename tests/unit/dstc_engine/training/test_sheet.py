from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dstc_engine.training.sheet import write_sheet


def test_a_sheet_holds_its_images_on_gray(tmp_path: Path) -> None:
    rows = [torch.ones(3, 3, 8, 8), -torch.ones(2, 3, 8, 8)]
    write_sheet(tmp_path / "new" / "sheet.png", rows, scale=2, gap=2)
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    assert sheet.shape == (2 * (2 * 10 + 2), 2 * (3 * 10 + 2), 3)
    assert (sheet[4:20, 4:20] == 255).all()
    assert (sheet[24:40, 4:20] == 0).all()
    assert set(sheet[:4].flatten()) <= {127, 128}
    assert set(sheet[24:40, 44:60].flatten()) <= {127, 128}
