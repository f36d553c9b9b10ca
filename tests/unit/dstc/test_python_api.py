"""What the public functions refuse and give; docs/python.md's examples run in another test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dstc
from dstc.errors import ManifestError, RunFolderError, SettingsError
from dstc_engine.errors import ImageError, PresetError, RequestError
from tests.hostile.local_run import LocalRun

Rows = Callable[[int], dict[str, list[Any]]]


def one(image: Any, **options: Any) -> Image.Image:
    return dstc.translate_image(image, engine="fake", **{"prompt": "oil", **options})


def test_an_image_of_pillow_and_its_file_give_the_same(images: Path) -> None:
    path = images / "p0.png"
    with Image.open(path) as opened:
        assert one(opened).tobytes() == one(path).tobytes() == one(str(path)).tobytes()
    assert one(path).size == (64, 64) and one(path).mode == "RGB"
    assert one(path, seed=1).tobytes() != one(path).tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "F"])
def test_every_mode_of_pillow_is_taken(mode: str) -> None:
    image = Image.new("RGB", (20, 30), "white").convert(mode)
    assert np.asarray(one(image))[8, 8].tolist() == [0, 0, 0]  # the negative of white


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"prompt": None}, RequestError, "style and prompt are both empty"),
        ({"seed": -1}, RequestError, "seed is -1"),
        ({"preset": "none"}, PresetError, "none"),
        ({"set": {"crops": "x"}}, PresetError, "crops"),
        ({"device": "tpu"}, SettingsError, "--device: found 'tpu'"),
        ({"style": "none.png"}, ImageError, "style none.png: No such file"),
        ({"style": 7}, ImageError, "style: found int; expected an image of Pillow, or a path"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    images: Path, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as found:
        one(images / "p0.png", **options)
    assert isinstance(found.value, dstc.UserError)


def test_a_run_is_read_whether_finished_or_not(
    tmp_path: Path, good_rows: Rows, write_manifest: Callable[..., Path]
) -> None:
    columns = good_rows(6)
    columns["content"][2] = "none.png"
    LocalRun(write_manifest(columns), tmp_path / "run").translate()
    run = dstc.open_run(tmp_path / "run")
    assert (run.status.done, run.status.rejected_reasons) == (5, {"missing_picture": 1})
    assert run.table().column("id").to_pylist() == columns["id"]
    assert not {"losses", "samples"} & set(run.table().column_names)
    assert run.table(["id", "losses"]).column_names == ["id", "losses"]
    assert [row_id for row_id, _ in run.images()] == [*columns["id"][:2], *columns["id"][3:]]
    with pytest.raises(RunFolderError, match="no column nothing; expected some of id"):
        run.table(["nothing"])
    (tmp_path / "run/summary.json").unlink()
    (tmp_path / "run/results/part-00001.parquet").unlink()
    assert dstc.open_run(tmp_path / "run").table().num_rows == 4


def test_what_is_no_run_and_no_manifest_is_refused(tmp_path: Path, images: Path) -> None:
    with pytest.raises(RunFolderError, match="no job.json found"):
        dstc.open_run(tmp_path)
    with pytest.raises(ManifestError, match="dstc manifest build"):
        dstc.check_manifest(images)
    with pytest.raises(SettingsError, match="--slotz: no such option"):
        dstc.translate("rows.parquet", tmp_path / "run", slotz=4)
    with pytest.raises(SettingsError, match="kind: found 'zip'; expected one of imagefolder"):
        dstc.export(tmp_path, tmp_path / "to", "zip")


def test_names_that_are_modules_too_stay_functions() -> None:
    import dstc.translate  # noqa: F401
    from dstc import translate

    assert dstc.translate is translate and callable(dstc.export)


def test_one_text_is_one_prompt_and_one_style(tmp_path: Path, images: Path) -> None:
    one_style = str(images / "p1.png")
    built = dstc.build_manifest(
        images / "p0.png", tmp_path / "rows.parquet", prompts="an oil", styles=one_style
    )
    assert built.rows == 1
