"""Which rows of a manifest a pilot has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dstc.errors import SettingsError
from dstc.planning import pilot_rows
from dstc.planning.pilot_rows import choose_pilot_rows, pilot_table
from dstc.store.manifest import Manifest, open_manifest
from tests.conftest import WriteManifest


def _columns(prompts: list[str | None], **others: Any) -> dict[str, Any]:
    names = [f"row-{number}" for number in range(len(prompts))]
    return {"id": names, "content": [f"{n}.png" for n in names], "prompt": prompts, **others}


def _open(path: Path) -> Manifest:
    return open_manifest(str(path), 16)


def test_each_look_has_its_share_wherever_its_rows_are(write_manifest: WriteManifest) -> None:
    # The first 100 rows are all of one look, and another look has few rows.
    prompts = ["wood"] * 100 + ["glass"] * 60 + ["ink"] * 12
    manifest = _open(write_manifest(_columns(prompts), row_group_size=7))
    chosen = choose_pilot_rows(manifest, 50, least_rows=10)
    assert Counter(prompts[row] for row in chosen.rows) == {"wood": 19, "glass": 19, "ink": 12}
    assert [(look.prompt, look.rows, look.pilot) for look in chosen.looks] == [
        ("wood", 100, 19),
        ("glass", 60, 19),
        ("ink", 12, 12),
    ]
    assert list(chosen.rows) == sorted(set(chosen.rows))
    wood = [row for row in chosen.rows if prompts[row] == "wood"]
    assert min(wood) < 30 and max(wood) > 70, "from all over the manifest"
    assert choose_pilot_rows(manifest, 50, least_rows=10) == chosen


def test_looks_that_hardly_repeat_are_left_to_the_fallback(write_manifest: WriteManifest) -> None:
    prompts = ["wood"] * 30 + [f"look {n // 3}" for n in range(9)]
    chosen = choose_pilot_rows(_open(write_manifest(_columns(prompts))), 20, least_rows=10)
    assert [look.prompt for look in chosen.looks] == ["wood"] and len(chosen.rows) == 20
    assert (chosen.other_looks, chosen.other_rows) == (3, 9)


def test_rows_that_teach_nothing_are_not_chosen(write_manifest: WriteManifest) -> None:
    columns = _columns(["wood"] * 20, mask=["m.png" if n < 5 else None for n in range(20)])
    columns["content"][5] = None
    columns["prompt"][6] = " "
    manifest = _open(write_manifest(columns))
    chosen = choose_pilot_rows(manifest, 19, least_rows=2, left_out={7})
    assert list(chosen.rows) == list(range(8, 20)) and chosen.looks[0].rows == 12


def test_the_pilots_manifest_may_lie_anywhere(write_manifest: WriteManifest) -> None:
    columns = _columns(
        [None, "wood", None], style=["s.png", None, "s3://bucket/s.png"], seed=[1, 2, 3],
        label=["a", "b", "c"], mask=[None] * 3,
    )  # fmt: skip
    path = write_manifest(columns, name="in/rows.parquet", row_group_size=2)
    table = pilot_table(_open(path), [0, 2])
    assert table.to_pylist() == [
        {
            "id": f"row-{number}",
            "content": str(path.parent / f"row-{number}.png"),
            "style": style,
            "prompt": None,
            "seed": number + 1,
        }
        for number, style in ((0, str(path.parent / "s.png")), (2, "s3://bucket/s.png"))
    ]


def test_a_pilot_that_no_student_can_come_of_is_refused(
    write_manifest: WriteManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = _open(write_manifest(_columns([f"look {n % 4}" for n in range(80)])))
    with pytest.raises(
        SettingsError,
        match=r"--pilot 30: the manifest has 4 looks in 10 rows or more \(prompt 'look 0'; "
        r".*; and 1 more\), and a student .*: expected --pilot 40 at least",
    ):
        choose_pilot_rows(manifest, 30, least_rows=10)
    with pytest.raises(
        SettingsError, match="4 looks, the most frequent one in 20 rows .*; expected 21 or more"
    ):
        choose_pilot_rows(manifest, 30, least_rows=21)
    with pytest.raises(SettingsError, match="--pilot 80: the manifest has 80 rows"):
        choose_pilot_rows(manifest, 80, least_rows=10)
    monkeypatch.setattr(pilot_rows, "MOST_LOOKS", 3)
    with pytest.raises(SettingsError, match="more than 3 looks in the first 4 rows"):
        choose_pilot_rows(manifest, 40, least_rows=10)
