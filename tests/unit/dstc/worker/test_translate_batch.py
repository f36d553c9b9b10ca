"""The actor of a processor, without Ray: rows of every form in, images or reasons out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dstc
from dstc.errors import SettingsError
from dstc.processor import ProcessorConfig
from dstc.worker.translate_batch import TranslateBatch
from dstc_engine.decoding.read import read_image


@pytest.fixture
def translate_batch(images: Path) -> Iterator[TranslateBatch]:
    config = ProcessorConfig(engine="fake", slots=2, allow_local=[images])
    actor = TranslateBatch(config.settings, "cpu", 0, None)
    yield actor
    actor.close()


def rows_of(actor: TranslateBatch, column: str, cells: list[Any], **others: Any) -> list[Any]:
    table = pa.table({column: cells, **{n: [v] * len(cells) for n, v in others.items()}})
    return actor(table).to_pylist()


def test_bytes_structs_and_uris_give_the_same_image(
    translate_batch: TranslateBatch, images: Path
) -> None:
    data = (images / "p0.png").read_bytes()
    found = [
        *rows_of(translate_batch, "content", [data, data], prompt="oil", image="mine"),
        *rows_of(translate_batch, "content", [{"bytes": data, "path": "a.png"}], prompt="oil"),
        *rows_of(translate_batch, "content", [str(images / "p0.png")], prompt="oil"),
    ]
    assert {row["status"] for row in found} == {"done"}
    assert len({(row["image"], row["seed"]) for row in found}) == 1
    assert read_image(found[0]["image"]).pixels.shape == (64, 64, 3)
    assert found[0]["input_image"] == "mine"


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("content", b"no image", "unreadable_picture"),
        ("content", None, "no_content"),
        ("content", 7, "bad_request"),
        ("content", "/etc/hostname", "bad_uri"),
        ("style", b"no image", "unreadable_picture"),
        ("prompt", "  ", "bad_request"),
        ("prompt", 7, "bad_text"),
        ("seed", -1, "bad_request"),
        ("seed", "x", "bad_seed"),
        ("seed", True, "bad_seed"),
    ],
)
def test_a_bad_row_is_a_row_and_its_neighbor_is_done(
    translate_batch: TranslateBatch, images: Path, column: str, cell: Any, reason: str
) -> None:
    good: dict[str, Any] = {"content": (images / "p0.png").read_bytes(), "prompt": "oil"}
    (bad,) = rows_of(translate_batch, column, [cell], **{**good, column: cell})
    assert (bad["status"], bad["reason"], bad["image"]) == ("rejected", reason, None)
    assert bad["error"]
    (done,) = rows_of(translate_batch, "content", [good["content"]], prompt="oil")
    assert done["status"] == "done"


def test_a_config_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(SettingsError, match="--slots: found 0"):
        dstc.build_processor(dstc.ProcessorConfig(slots=0, engine="fake"))
    with pytest.raises(SettingsError, match="concurrency: found"):
        dstc.build_processor(dstc.ProcessorConfig(concurrency=(2, 1), engine="fake"))
