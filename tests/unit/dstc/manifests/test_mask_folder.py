from __future__ import annotations

from pathlib import Path

import pytest

from dstc.cli import main
from dstc.errors import ManifestError, SettingsError
from dstc.manifests.find_sources import find_sources
from dstc.manifests.mask_folder import with_masks
from tests.unit.dstc.manifests.files import rows_of, write_images


def test_masks_have_the_names_of_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, ["pics/cat/1.jpg", "pics/cat/2.png", "pics/dog/1.png", "pics/dog/1.jpg"])
    write_images(tmp_path, ["masks/cat/1.PNG", "masks/dog/1.png", "masks/dog/1.jpg", "masks/2.png"])
    (tmp_path / "masks/notes.txt").write_text("no mask")
    monkeypatch.chdir(tmp_path)

    command = "manifest build pics/ -o rows.parquet --masks masks/ --prompt a --prompt b"
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--pair", "product"])

    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "1 of 4 contents have no mask\n1 masks belong to no content\n" in said
    assert {row["content"]: row["mask"] for row in rows_of(tmp_path / "rows.parquet")} == {
        "pics/cat/1.jpg": "masks/cat/1.PNG",
        "pics/cat/2.png": None,
        "pics/dog/1.jpg": "masks/dog/1.jpg",
        "pics/dog/1.png": "masks/dog/1.png",
    }


def test_sources_by_pattern_and_by_name_have_masks_too(tmp_path: Path) -> None:
    pics = write_images(tmp_path / "pics", ["1.jpg", "deep/2.png", "deep/masks/2.png"])

    (by_name,) = with_masks(find_sources([str(pics / "deep/2.png")]), str(pics / "deep/masks"))
    (table,) = by_name.read()
    assert table.column("mask").to_pylist() == [f"{pics}/deep/masks/2.png"]
    # The pattern's names begin before its first mark: those of the masks would, too.
    told = "no content has a mask there: found '2.png', and the content 'deep/2.png' in .*pics;"
    with pytest.raises(ManifestError, match=told):
        with_masks(find_sources([f"{pics}/*/*.png"]), str(pics / "deep/masks"))


def test_masks_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    pics = write_images(tmp_path / "pics", ["1.jpg", "masks/1.png"])
    other = write_images(tmp_path / "other", ["1.png", "1.webp"])
    (tmp_path / "rows.csv").write_text("content,prompt\na.png,x\n")
    (tmp_path / "empty").mkdir()

    def refused(source: Path, masks: Path) -> str:
        with pytest.raises((ManifestError, SettingsError)) as error:
            with_masks(find_sources([str(source)]), str(masks))
        return str(error.value)

    assert "found 1.png and 1.webp; expected one mask of the content '1.jpg'" in refused(
        pics, other
    )
    assert "found 'masks/1.png' of" in refused(pics, pics / "masks")
    assert "found no image; expected a folder of masks" in refused(pics, tmp_path / "empty")
    assert "found no image" in refused(pics, tmp_path / "nothing")
    assert "rows.csv (CSV); expected a folder" in refused(tmp_path / "rows.csv", other)
