"""The report of a hundred thousand rows: how large, how long, and what is in it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from dstc.report import MAX_CARDS, make_report
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc_engine.request import StepLosses

SHARDS, ROWS = 20, 5_000
# The only rows of their kind.
RARE, FLAGGED, BEST = (3, 4_321), (17, 1_234), (11, 2_999)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Each row has two images that are as large in a page as photographs are."""
    run = RunFolder(str(tmp_path / "run"))
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    noise.filter(ImageFilter.GaussianBlur(1.5)).save(tmp_path / "photo.png")
    steps = [
        StepLosses(3 - n, "sample", {"structure": 1.0 / (n + 1), "total": 2.0}) for n in range(4)
    ]
    done = Outcome("done", image="../photo.png", seed=1, steps=4, seconds=1.0, losses=steps)
    photo = str(tmp_path / "photo.png")
    rows = pa.table({"id": [""], "content": [photo], "style": [photo], "prompt": ["a prompt"]})
    one = result_table(rows, [done])
    table = pa.concat_tables([one] * ROWS).combine_chunks()
    for shard in range(SHARDS):
        ids = pa.array([f"{shard}/{n}" for n in range(ROWS)])
        flags: list[str | None] = [None] * ROWS
        part = table.set_column(0, "id", ids)
        if shard == FLAGGED[0]:
            flags[FLAGGED[1]] = "structure"
        if shard == RARE[0]:
            failed = result_table(rows, [Outcome("failed", "rare", "alone")])
            failed = failed.set_column(0, "id", pa.array([f"{RARE[0]}/{RARE[1]}"]))
            part = pa.concat_tables([part.slice(0, RARE[1]), failed, part.slice(RARE[1] + 1)])
        part = part.set_column(
            part.column_names.index("flagged"), "flagged", pa.array(flags, pa.string())
        )
        write_part(run, shard, part.combine_chunks())
    return run


def _measure(run: RunFolder) -> None:
    rng = np.random.default_rng(1)
    folder = Path(run.uri) / "metrics"
    folder.mkdir()
    for shard in range(SHARDS):
        values = rng.uniform(0.2, 0.8, ROWS)
        if shard == BEST[0]:
            values[BEST[1]] = 0.99
        columns = {"id": [f"{shard}/{n}" for n in range(ROWS)], "clip_score": values}
        pq.write_table(pa.table(columns), folder / f"part-{shard:05d}.parquet")


def test_a_hundred_thousand_rows_make_a_page_that_can_be_sent(run: RunFolder) -> None:
    _measure(run)
    start = time.monotonic()
    page = make_report(run.uri)
    seconds = time.monotonic() - start
    assert seconds < 30, "about 1 on one idle core"
    assert 2_000_000 < len(page) < 15_000_000
    text = page.decode()
    assert text.count('<article class="card"') == MAX_CARDS
    assert "99,999" in text
    ids = re.findall(r'<h3 class="user">(.*?)</h3>', text)
    for shard, row in (RARE, FLAGGED, BEST):
        assert f"{shard}/{row}" in ids
    assert {int(name.partition("/")[0]) for name in ids} == set(range(SHARDS))
    keys = [
        json.loads(value.replace("&#34;", '"')) for value in re.findall('data-sort="(.*?)"', text)
    ]
    scores = sorted(key["metric clip_score"] for key in keys if key)
    assert scores[-1] == 0.99 and scores[0] < 0.2001, "the worst and the best of all rows"
    assert "of 400 rows, evenly spread over the run" in text
