"""What `import dstc` offers, and that it costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dstc


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(name for names in dstc._HOMES.values() for name in names) == dstc.__all__
    assert dstc.__all__ == [
        *("DstcError", "EngineSpec", "JobError", "ProcessorConfig", "Progress", "Run"),
        *("Settings", "Status", "UserError", "build_manifest", "build_processor"),
        *("check_manifest", "export", "make_settings", "open_run"),
        *("read_status", "run", "translate", "translate_image", "write_report"),
    ]


@pytest.mark.parametrize("name", dstc.__all__)
def test_each_name_is_what_it_says(name: str) -> None:
    assert getattr(dstc, name).__name__ == name


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dstc.nothing


def test_importing_it_brings_neither_ray_nor_torch() -> None:
    code = "import sys, dstc; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
