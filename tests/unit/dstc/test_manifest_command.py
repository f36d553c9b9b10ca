from __future__ import annotations

from pathlib import Path

import pytest

from dstc.cli import main
from dstc.manifest import gathered
from tests.unit.dstc.manifests.files import rows_of, write_images


def test_styles_that_a_shell_spread_out_are_styles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, ["pics/1.png", "looks/a.png", "looks/b.png"])
    monkeypatch.chdir(tmp_path)

    command = "manifest build pics/ -o rows.parquet --style looks/a.png looks/b.png --pair product"
    with pytest.raises(SystemExit) as end:
        main(command.split())

    assert end.value.code == 0
    assert [row["id"] for row in rows_of(tmp_path / "rows.parquet")] == ["1--a", "1--b"]
    assert "next: dstc manifest check" in capsys.readouterr().out
    assert gathered(["--style", "a.png", "pics/b.png"]) == ["--style", "a.png", "pics/b.png"]
