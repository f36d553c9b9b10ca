"""A small run folder made by hand, and what its page says."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dstc.report import MAX_CARDS, write_contact_sheet, write_report
from dstc.store.results import Outcome, Sample, result_table, write_part
from dstc.store.run_folder import RunFolder
from dstc_engine.errors import UserError
from dstc_engine.request import StepLosses

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onmouseover=\"alert(2)"
SIGNED = "nosuch://user:hunter2@store/a.png?X-Amz-Signature=abc"
SIGNED_WEB = SIGNED.replace("nosuch", "https")
NAN = math.nan

MANIFEST = pa.schema(
    [(name, pa.string()) for name in ("id", "content", "style", "prompt", "source_prompt")]
    + [("label", pa.string()), ("image_bytes", pa.binary())]
)


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "script":
            self.scripts.append(data)
        elif self._inside and self._inside[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and kind in ("", *a.get("class", "").split())]

    @property
    def cards(self) -> dict[str, str]:
        return {
            card["data-search"].split()[0]: card["data-status"]
            for card in self.all("article", "card")
        }


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Six steps of 64 pixels: two rows done, one rejected, one failed, in two parts."""

    def make(**without: bool) -> Path:
        data, output = tmp_path / "data", tmp_path / "runs" / "first try"
        (data / "in").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for name, shape in (("a.png", (90, 120, 3)), ("b.png", (64, 64, 3))):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(data / "in" / name)
        run = RunFolder(str(output))
        done = [_done(run, "one"), _done(run, "two", losses=False)]
        Path(run.image("two")).unlink()  # an image that somebody deleted
        rows = [
            _row("one", "in/a.png", style="in/b.png", prompt="fox & hound", label="cat <b>"),
            _row("two", "in/a.png", prompt=HOSTILE, source_prompt="</article></html>"),
        ]
        write_part(run, 0, result_table(_table(rows), done))
        rows = [_row("three", "in/gone.png", prompt="x"), _row("four", SIGNED, prompt="x")]
        missed = [
            Outcome("rejected", "missing_picture", "content in/gone.png: <none>", seed=3),
            Outcome("failed", "fetch_error", f"content {SIGNED}: no answer", seed=4),
        ]
        write_part(run, 1, result_table(_table(rows), missed))
        if not without.get("job"):
            _write(output / "job.json", _job(data / "manifest.parquet"))
        if not without.get("summary"):
            _write(output / "summary.json", {"run_id": "r-1", "rows": 4, "done": 2, "rate": 0.25})
        if not without.get("stats"):
            for shard in range(2):
                _write(output / "stats" / f"{shard:05d}.json", _stats(shard))
        return output

    return make


def _row(row_id: str, content: str, **others: str) -> dict[str, Any]:
    return {**dict.fromkeys(MANIFEST.names), "id": row_id, "content": content, **others}


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def _done(run: RunFolder, row_id: str, losses: bool = True) -> Outcome:
    path = Path(run.image(row_id))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(path)
    steps = [
        StepLosses(max(0, 4 - step), "resample" if step < 2 else "sample", values)
        for step, values in enumerate(
            {"structure": 1.0 / (step + 1), "clip": NAN if step > 3 else 0.5, "total": NAN}
            for step in range(6)
        )
    ]
    return Outcome(
        "done",
        image=run.image_name(row_id),
        image_sha256="ab" * 32,
        seed=12345,
        steps=6,
        restarts=1,
        seconds=1.25,
        losses=steps if losses else [],
    )


def _write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _job(manifest: Path) -> dict[str, Any]:
    return {
        "format": 1,
        "run_id": "20260101-000000-abcdef",
        "created": "2026-01-01T00:00:00Z",
        "fingerprint": "f00d" * 16,
        "settings": {"rows_per_shard": 2, "slots": 8, "set": {"weight_clip": "7"}},
        "preset": {"name": "tiny64", "image_size": 64, "fit": "crop", "weight_clip": 7.0},
        "weights": [
            {"name": "prior", "sha256": "cafe" * 16, "licence": "MIT", "size": 5, "source": "s"},
            {"name": "vit", "sha256": None, "licence": "MIT", "size": 0, "source": SIGNED_WEB},
        ],
        "manifest": {
            "uri": str(manifest),
            "rows": 4,
            "columns": {"id": "string"},
            "files": {"manifest.parquet": {"rows": 4}},
        },
        "identity": {},
        "limits": [],
        "versions": {"dstc": "0.1.0"},
    }


def _stats(shard: int) -> dict[str, Any]:
    return {
        "state": "done",
        "rows": 2,
        "started": 1000.0 + 10 * shard,
        "ended": 1010.0 + 10 * shard,
        "seconds": {"shard": 10, "fetch": 1, "queue": 2, "translate": 6, "write": 1},
        "occupancy": 0.5,
        "worker": f"host:{shard}",
    }


def _page(output: Path) -> Page:
    path = write_report(str(output))
    assert path == str(output / "report.html")
    return Page(Path(path).read_text())


def test_a_finished_run(make_run: MakeRun) -> None:
    page = _page(make_run())
    assert page.cards == {"one": "done", "two": "done", "three": "rejected", "four": "failed"}
    assert "first try finished" in page.text and "all 4 rows" in page.text
    assert "done 2 rejected 1 failed 1 rows in all 4 rate 0.25 row/s slots busy 50 %" in page.text
    assert "not finished" not in page.text and not page.all("ul", "notes")
    for text in ("tiny64", "f00df00df00df00d", "cafecafecafe", "no sha256", "fox & hound"):
        assert text in page.text
    assert "missing_picture rejected 1 three content in/gone.png: <none>" in page.text
    assert "label cat <b>" in page.text, "columns of the manifest travel along"
    assert "weight_clip 7" in page.text


def test_the_page_is_one_file(make_run: MakeRun) -> None:
    output = make_run()
    page = _page(output)
    assert len(page.all("img")) == 4, "two contents, a style and a result"
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))
    assert [link["rel"] for link in page.all("link")] == ["icon"] and not page.all("iframe")
    for tag, attributes in page.tags:
        assert not {"srcset", "action", "data", "poster", "background"} & set(attributes)
        if attributes.get("class") == "open" and "href" in attributes:
            # A link loads nothing before it is clicked, and tells nobody where from.
            assert attributes["rel"] == "noopener noreferrer"
            assert (output / attributes["href"]).resolve().is_file()
            continue
        start = "data:image/svg+xml," if tag == "link" else "#"
        assert attributes.get("href", "#").startswith(start)
        assert "url(" not in attributes.get("style", "")
    text = (output / "report.html").read_text()
    assert not re.search(r"@import|url\(", text)
    assert len(text) < 200_000


def test_texts_of_users_are_inert(make_run: MakeRun) -> None:
    page = _page(make_run())
    assert HOSTILE in "".join(page.texts)
    assert len(page.all("script")) == 1 and "alert" not in page.scripts[0]
    assert len(page.all("article")) == 4
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]


def test_only_the_page_s_own_script_may_run(make_run: MakeRun) -> None:
    page = _page(make_run())
    (policy,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy["content"]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_nothing_secret_of_urls_is_shown(make_run: MakeRun) -> None:
    text = Path(write_report(str(make_run()))).read_text()
    assert "nosuch://store/a.png?..." in text and "https://store/a.png?..." in text
    assert "Signature" not in text and "hunter2" not in text


def test_inputs_are_fitted_so_that_they_line_up_with_the_result(make_run: MakeRun) -> None:
    page = _page(make_run())
    for tag in page.all("img"):
        with Image.open(io.BytesIO(base64.b64decode(tag["src"].partition(",")[2]))) as image:
            assert image.size == (64, 64)
        assert "small" in tag["class"], "64 pixels are enlarged pixel by pixel"


def _replace_part(run: RunFolder, rows: pa.Table) -> None:
    """Part 0, by one of other rows: one with fewer is not taken."""
    Path(run.part(0)).unlink()
    write_part(run, 0, rows)


def test_samples_of_a_row_are_shown(make_run: MakeRun) -> None:
    output = make_run()
    run = RunFolder(str(output))
    # One is missing; of fourteen, three are not shown.
    for number in range(1, 15):
        if number != 2:
            path = output / run.sample_name("one", number)
            path.parent.mkdir(parents=True)
            Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    row = _row("one", "in/a.png", prompt="fox & hound")
    losses = [StepLosses(0, "sample", {"structure": 0.5, "total": 0.5})]
    samples = [
        Sample(number, run.sample_name("one", number), "ab", 100 + number, 1, 0, 1.0, 8, losses)
        for number in range(1, 15)
    ]
    done = dataclasses.replace(_done(run, "one"), samples=samples)
    _replace_part(run, result_table(_table([row]), [done]))
    page = _page(output)
    shown = [image["alt"] for image in page.all("img") if image["alt"].startswith("sample")]
    assert shown == [f"sample {n} of one, seed {100 + n}" for n in range(1, 12) if n != 2]
    labels = [span["aria-label"] for span in page.all("span", "broken")]
    assert labels[0] == "sample 2: there is no such file"
    assert "3 more in samples/." in page.text
    assert page.cards["one"] == "done"


def test_images_that_cannot_be_read_are_said(make_run: MakeRun) -> None:
    page = _page(make_run())
    labels = [span["aria-label"] for span in page.all("span", "broken")]
    assert labels[:2] == ["result: there is no such file", "content: there is no such file"]
    assert labels[2:] == ["content: a URI that cannot be used"]


def test_losses_become_curves(make_run: MakeRun) -> None:
    page = _page(make_run())
    labels = [svg["aria-label"] for svg in page.all("svg", "plot")]
    assert labels[:2] == labels[4:6], "the one row with losses is all of its look"
    assert labels[2:4] == [
        "loss structure by guided step: 0.167 to 1, ends at 0.167",
        "loss clip by guided step: always 0.5, ends at 0.5",
    ]
    assert labels[4:6] == [
        "loss structure by guided step: median ends at 0.167, 80 % of the rows at 0.167 to 0.167",
        "loss clip by guided step: median ends at 0.5, 80 % of the rows at 0.5 to 0.5",
    ]
    assert len(labels) == 8, "and two over time; a loss of only NaN has no curve"
    assert len(page.all("rect", "band")) == 6
    assert page.text.count("2 steps of the resample phase") == 2
    assert "Losses of 1 row, by guided step" in page.text
    assert "1 of the rows restarted: their last chain counts" in page.text


def _measure(output: Path, **columns: Any) -> None:
    """metrics.json, and the part of the first shard, whose two rows are done."""
    estimate = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 2}
    baselines = {"source_copy": {"mask_iou": {**estimate, "mean": 1.0}}, "style_copy": {}}
    values = {
        "judging": {"dino": "vit-of-others", "clip": "vit-of-theirs"},
        "rows": 4,
        "metrics": {"mask_iou": estimate, "truth_lpips": estimate},
        "baselines": baselines,
    }
    _write(output / "metrics.json", values)
    (output / "metrics").mkdir(exist_ok=True)
    table = pa.table({"id": ["one", "two"], "status": ["done", "done"], **columns})
    pq.write_table(table, output / "metrics" / "part-00000.parquet")


def test_an_evaluated_run_shows_its_metrics(make_run: MakeRun) -> None:
    output = make_run()
    columns = {"mask_iou": [0.125, None], "style_right": [1, 0], "metrics_error": [None, "gone"]}
    _measure(output, **columns, source_copy_mask_iou=[0.9, 0.9])
    page = _page(output)
    assert "mask_iou higher 0.5 0.25 to 0.75 1 0.25 to 0.75 " in page.text
    assert "Judged by vit-of-others and vit-of-theirs." in page.text
    first, second = (json.loads(card["data-sort"]) for card in page.all("article", "card")[:2])
    assert first["metric mask_iou"] == 0.125 and first["metric style_right"] == 1
    assert "metric mask_iou" not in second and second["metric style_right"] == 0
    assert "mask_iou 0.125 style_right 1 steps 6" in page.text
    options = {option["value"]: option.get("data-better") for option in page.all("option")}
    assert options["metric mask_iou"] == "higher" and options["loss structure"] == "lower"
    assert not [name for name in options if "source_copy" in name]


def test_a_run_that_was_not_evaluated_says_how(make_run: MakeRun) -> None:
    output = make_run()
    assert f"Not measured yet: dstc evaluate {output} does" in _page(output).text


@pytest.mark.parametrize("text", ["{", "[1]", '{"metrics": {"a": 3}}', "\xff"])
def test_broken_metrics_are_said_and_not_fatal(make_run: MakeRun, text: str) -> None:
    output = make_run()
    _measure(output, a=[1.0, 2.0])
    (output / "metrics.json").write_bytes(text.encode("latin-1"))
    (output / "metrics" / "part-00001.parquet").write_bytes(b"PAR1 and no more")
    page = _page(output)
    assert "metrics.json " in page.text and "writes it anew" in page.text
    first = json.loads(page.all("article", "card")[0]["data-sort"])
    assert first["metric a"] == 1, "what lies in the parts is shown"


def test_measures_of_other_rows_are_not_shown(make_run: MakeRun) -> None:
    output = make_run()
    _measure(output, a=[1.0, 2.0])
    part = output / "metrics" / "part-00000.parquet"
    pq.write_table(pa.table({"id": ["two", "one"], "a": [1.0, 2.0]}), part)
    assert "metric a" not in _page(output).all("article", "card")[0]["data-sort"]
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0]}), part)
    assert "metric a" not in _page(output).all("article", "card")[0]["data-sort"]


def test_flagged_rows_are_counted_shown_and_filtered(make_run: MakeRun) -> None:
    output = make_run()
    assert "done, flagged" not in _page(output).text
    part = output / "results" / "part-00000.parquet"
    rows = pq.read_table(part)
    flagged = pa.array(["range, structure", None], pa.string())
    pq.write_table(rows.set_column(rows.column_names.index("flagged"), "flagged", flagged), part)
    page = _page(output)
    assert "done, flagged 1 " in page.text and "1 row is done and doubtful" in page.text
    first, second = page.all("article", "card")[:2]
    assert json.loads(first["data-flags"]) == ["range", "structure"]
    assert json.loads(second["data-flags"]) == []
    assert {"*", "range", "structure"} <= {option["value"] for option in page.all("option")}


def test_cards_have_no_box_for_what_a_row_does_not_have(make_run: MakeRun) -> None:
    output = make_run()
    page = _page(output)
    figures = [figure["data-name"] for figure in page.all("figure") if "data-name" in figure]
    assert figures[:5] == ["content", "style", "result", "content", "result"]
    run = RunFolder(str(output))
    row = _row("one", "in/a.png", style="in/b.png")
    _replace_part(run, result_table(_table([row]), [_done(run, "one")]))
    (output / "results" / "part-00001.parquet").unlink()
    assert not _page(output).all("div", "words")


def test_speed_comes_from_the_stats(make_run: MakeRun) -> None:
    page = _page(make_run())
    assert "all shards 0.2 row/s last command 0.25 row/s shards 2 workers 2" in page.text
    assert "translate 12.0 3.000 60 %" in page.text


def test_an_unfinished_run(make_run: MakeRun) -> None:
    output = make_run(summary=True)
    job = json.loads((output / "job.json").read_text())
    job["manifest"]["rows"] = job["manifest"]["files"]["manifest.parquet"]["rows"] = 10
    _write(output / "job.json", job)
    _write(output / "stats" / "00002.json", {"state": "running", "attempt": 1})
    page = _page(output)
    assert "not finished" in page.text and "summary.json is not there" in page.text
    assert "remaining 6 (60 %)" in page.text
    assert "Begun and not finished: 1 shard." in page.text


def test_results_alone_are_enough(make_run: MakeRun) -> None:
    page = _page(make_run(job=True, summary=True, stats=True))
    assert len(page.cards) == 4
    assert "job.json is not there" in page.text and "stats/ is missing" in page.text
    assert "where the manifest lies is unknown" in page.text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    _write(tmp_path / "job.json", _job(tmp_path / "manifest.parquet"))
    page = _page(tmp_path)
    assert "There are no results yet" in page.text and "no rows yet" in page.text
    assert page.cards == {}


@pytest.mark.parametrize("text", ["{", "[1]", '{"preset": 3, "weights": [2], "manifest": []}'])
def test_broken_records_are_said_and_not_fatal(make_run: MakeRun, text: str) -> None:
    output = make_run()
    for name in ("job.json", "summary.json", "stats/00000.json"):
        (output / name).write_text(text)
    (output / "results" / "part-00007.parquet").write_bytes(b"PAR1 and no more")
    page = _page(output)
    assert len(page.cards) == 4
    assert "Result parts that cannot be read: 1. The first: part-00007.parquet" in page.text


def test_a_summary_of_an_earlier_command_is_said(make_run: MakeRun) -> None:
    output = make_run()
    _write(output / "summary.json", {"rows": 3})
    assert "summary.json tells of 3 rows, and the results hold 4" in _page(output).text


def test_large_runs_show_a_spread_of_their_rows(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for shard in range(3):
        rows = [_row(f"{shard}-{n:03d}", "gone.png", prompt="x") for n in range(150)]
        kinds = [("failed", "a"), ("rejected", "b"), ("rejected", "c")]
        outcomes = [Outcome(*kinds[n % 3], error="e") for n in range(150)]
        write_part(run, shard, result_table(_table(rows), outcomes))
    page = _page(tmp_path)
    assert len(page.cards) == MAX_CARDS
    assert {name[0] for name in page.cards} == {"0", "1", "2"}
    assert "200 of 450 rows: 191 evenly spread and examples of each reason" in page.text
    assert "Row by row: 50 of 450, failed ones first" in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    expected = "expected a run folder that `dstc translate` made, with job.json and results/"
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: found nothing; {expected}")):
        write_report(str(tmp_path))
    with pytest.raises(UserError, match="nowhere: found nothing"):
        write_report(str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="found notes.txt; expected"):
        write_report(str(tmp_path))
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(UserError, match=r"found job\.json, which is not readable JSON"):
        write_report(str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_a_contact_sheet_is_written_where_it_is_asked_for(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    target = tmp_path / "sheet.png"
    assert write_contact_sheet(str(run), str(target)) == str(target)
    with Image.open(target) as sheet:
        assert sheet.format == "PNG" and sheet.size == (1654, 2339)
        assert len(sheet.getcolors(1 << 20) or []) > 50
    assert not (run / "report.html").exists()
    with pytest.raises(UserError, match="expected a run folder"):
        write_contact_sheet(str(tmp_path / "nothing"), str(target))
    with pytest.raises(UserError, match="expected a path or URL without|credentials"):
        write_contact_sheet(str(run), "s3://user:secret@bucket/sheet.png")
