"""docs/export.md: its commands run, and its readers read what they made."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dstc.cli import main
from tests.finished_run import finished, make_run

__all__ = ["finished", "make_run"]

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "export.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


# webdataset leaves it to the garbage collector to close what it read.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_page_as_it_is_read(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "RUN").symlink_to(finished)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "dstc"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert "images    " in capsys.readouterr().out
    readers = blocks("python")
    assert len(readers) == 4
    for reader in readers:
        exec(reader, {})
    told = capsys.readouterr().out
    assert "['and%2For', 'cat'] 5" in told
    assert "a/1 (64, 64) 0" in told
    assert "['and/or', 'cat'] (64, 64)" in told
    assert "6 ['moon', 'sun']" in told
