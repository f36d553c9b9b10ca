"""Rows, metrics and losses by style and prompt."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dstc.report import make_report
from dstc.reporting import looks
from dstc.reporting.cards import _facts
from dstc.reporting.looks import MAX_LOOKS, read_looks
from dstc.store.results import Outcome, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc_engine.request import StepLosses


def _write(
    run: RunFolder,
    shard: int,
    prompts: list[str | None],
    scores: list[float],
    makers: dict[str | None, str] | None = None,
) -> None:
    """Rows of these prompts; those of `ink` failed, and losses are the scores."""
    made_by = makers or {}
    rows = pa.table(
        {
            "id": [f"{shard}-{n}" for n in range(len(prompts))],
            "prompt": pa.array(prompts, pa.string()),
            "style": pa.array([None if p else "s.png" for p in prompts], pa.string()),
        }
    )
    outcomes = [
        Outcome("failed", "fetch_error", "gone")
        if prompt == "ink"
        else Outcome(
            "done",
            steps=1,
            losses=[StepLosses(0, "sample", {"total": score})],
            made_by=made_by.get(prompt),
        )
        for prompt, score in zip(prompts, scores, strict=True)
    ]
    write_part(run, shard, result_table(rows, outcomes))
    folder = Path(run.uri) / "metrics"
    folder.mkdir(exist_ok=True)
    measures = pa.table({"id": rows["id"], "clip_score": scores})
    pq.write_table(measures, folder / f"part-{shard:05d}.parquet")


def test_looks_are_counted_over_parts_and_the_failing_one_comes_first(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    _write(run, 0, ["oil", "ink", None, "oil"], [0.2, 0.9, 0.6, 0.4])
    _write(run, 1, ["oil", None], [0.3, 0.8])
    looks, in_all = read_looks(run, [(0, 4), (1, 2)])
    assert [look.name for look in looks] == ["ink", "oil", "s.png"] and in_all == 3
    assert [(look.rows, look.missed) for look in looks] == [(1, 1), (3, 0), (2, 0)]
    assert [round(look.means["clip_score"], 3) for look in looks] == [0.9, 0.3, 0.7]
    assert [look.worst for look in looks] == [set(), {"clip_score"}, set()]
    assert [look.bands.rows for look in looks] == [0, 3, 2]
    (total,) = looks[1].bands.bands
    assert total.name == "total" and abs(total.median[0] - 0.3) < 1e-6
    page = make_report(run.uri).decode()
    assert 'id="looks"' in page and "Losses: s.png" in page


def test_looks_tell_what_a_student_made(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    makers: dict[str | None, str] = {"oil": "student", None: "guided"}
    _write(run, 0, ["oil", "ink", None, "oil"], [0.2, 0.9, 0.6, 0.4], makers)
    _write(run, 1, ["oil", None], [0.3, 0.8], {"oil": "guided"})
    looks, _ = read_looks(run, [(0, 4), (1, 2)])
    assert {look.name: dict(look.made_by) for look in looks} == {
        "ink": {},
        "oil": {"student": 2, "guided": 1},
        "s.png": {"guided": 1},
    }
    page = make_report(run.uri).decode()
    assert '<th class="n">by guided</th><th class="n">by student</th>' in page
    assert '<td class="n" data-name="by student">2</td>' in page
    assert ("made by", "student") in _facts({"made_by": "student"})


def test_rows_that_share_no_look_or_all_have_none_to_compare(tmp_path: Path) -> None:
    for name, prompts in (("all", ["oil"] * 3), ("none", ["a", "b", "c"])):
        run = RunFolder(str(tmp_path / name))
        _write(run, 0, list(prompts), [0.1, 0.2, 0.3])
        assert read_looks(run, [(0, 3)])[0] == []
        assert 'id="looks"' not in make_report(run.uri).decode()


def test_only_some_of_many_looks_are_shown(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    prompts: list[str | None] = [f"look {n}" for n in range(20)] * 2
    _write(run, 0, prompts, [0.5] * 40)
    looks, in_all = read_looks(run, [(0, 40)])
    assert len(looks) == MAX_LOOKS and in_all == 20


def test_a_sample_of_samples_is_that_of_the_whole() -> None:
    places = [(shard, offset) for shard in range(50) for offset in range(16)]
    parts = [looks._sample(places[start : start + 16]) for start in range(0, len(places), 16)]
    so_far: list[tuple[int, int]] = []
    for part in parts:
        so_far = looks._sample(so_far + part)
    assert so_far == looks._sample(places) and len(so_far) == looks._CHAINS
    assert len({shard for shard, _ in so_far}) > 10, "of the whole run, not of its first parts"
