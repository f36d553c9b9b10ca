from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from dstc.cli import main
from dstc.errors import ManifestError
from dstc.manifests.check import Checked, check_manifest
from dstc.manifests.check_rows import lost_words
from dstc.manifests.schema_faults import schema_faults
from dstc.planning.settings import make_settings
from dstc.store.manifest import open_manifest
from tests.unit.dstc.manifests.files import png, write_images


def check(manifest: Path, images: int | None = None, **values: Any) -> Checked:
    settings = make_settings(manifest=str(manifest), output="run", **values)
    return check_manifest(settings, images)


def drawing(width: int, height: int) -> bytes:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((2, 2, 20, 20), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_all_faults_of_the_columns_are_told_at_once(tmp_path: Path) -> None:
    table = pa.table(
        {"image_path": ["a"], "caption": ["x"], "seed": [1.5], "status": ["a"], "id": [1]}
    )
    pq.write_table(table, tmp_path / "rows.parquet")

    faults = schema_faults(str(tmp_path / "rows.parquet"))

    assert len(faults) == 4  # results call a column of theirs `manifest_status`
    told = "\n".join(faults)
    assert "content is missing; `dstc manifest build` with --column content=image_path" in told
    assert "--column prompt=caption" in told
    assert "column 'seed': found double" in told
    assert "column 'id': found int64; expected string" in told
    assert check(tmp_path / "rows.parquet").schema == faults


@pytest.mark.parametrize(
    "columns",
    [
        {"id": ["a"], "content": ["b"], "prompt": ["c"]},
        {"id": ["a"], "content": ["b"], "style": [None]},
        {"id": ["a"], "content": ["b"]},
        {"id": ["a"], "prompt": ["c"]},
        {"id": [1], "content": ["b"], "prompt": ["c"]},
        {"id": ["a"], "content": [b"b"], "prompt": ["c"]},
        {"id": ["a"], "content": ["b"], "prompt": ["c"], "seed": [1.0]},
        {"id": ["a"], "content": ["b"], "prompt": ["c"], "image": ["d"]},
        {"id": [], "content": [], "prompt": []},
    ],
)
def test_a_schema_is_refused_where_a_job_refuses_it(
    tmp_path: Path, columns: dict[str, list[Any]]
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    uri = str(tmp_path / "rows.parquet")
    try:
        open_manifest(uri, 16)
        is_taken = True
    except ManifestError:
        is_taken = False

    assert (not schema_faults(uri)) == is_taken


def test_rows_and_images_are_judged(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(drawing(80, 70))
    (tmp_path / "wide.png").write_bytes(drawing(300, 100))
    (tmp_path / "small.png").write_bytes(drawing(30, 32))
    (tmp_path / "plain.png").write_bytes(png(1, (80, 80)))
    (tmp_path / "torn.png").write_bytes(drawing(80, 80)[:90])
    long = " ".join(f"word{number}" for number in range(40))
    rows = [
        ("good", "good.png", "x"),
        ("wide", "wide.png", long),
        ("small", "small.png", "x"),
        ("plain", "plain.png", "x"),
        ("torn", "torn.png", "x"),
        ("gone", "gone.png", "x"),
        ("good", "good.png", "x"),
        ("a b", "good.png", "x"),
        ("no", "good.png", None),
    ]
    names = ("id", "content", "prompt")
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    pq.write_table(table, tmp_path / "rows.parquet")

    found = check(tmp_path / "rows.parquet")

    reasons = {finding.reason: (finding.rows, finding.is_fault) for finding in found.findings}
    assert reasons == {
        "duplicate_id": (1, True),
        "bad_id": (1, True),
        "no_target": (1, True),
        "unreadable_picture": (1, True),
        "missing_picture": (1, True),
        "prompt_cut": (1, False),
        "much_cut_off": (1, False),
        "enlarged": (1, False),
        "one_color": (1, False),
    }
    examples = {finding.reason: finding.examples[0] for finding in found.findings}
    assert "leaves out 67%" in examples["much_cut_off"]
    assert "word39" in examples["prompt_cut"]
    assert found.has_bad_rows and found.cost and "core-hours" in found.cost
    assert found.images["rows"] == 6
    assert check(tmp_path / "rows.parquet", 0).images == {"rows": 0}
    assert check(tmp_path / "rows.parquet", 2).images["rows"] == 2
    padded = check(tmp_path / "rows.parquet", set={"fit": "pad"})
    assert "much_cut_off" not in {finding.reason for finding in padded.findings}


def test_the_words_that_clip_does_not_read() -> None:
    words = [f"cat{number % 7}" for number in range(200)]

    lost = lost_words(" ".join(words))

    assert lost and " ".join(words).endswith(lost)
    assert lost_words(" ".join(words[: len(words) - len(lost.split())])) == ""
    assert lost_words("a watercolor of a dog") == ""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    output = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, output.out + output.err


def test_exit_codes_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(drawing(80, 80))
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    pq.write_table(pa.table({"id": ["a"], "content": ["a.png"], "prompt": ["x"]}), good)
    pq.write_table(pa.table({"id": ["a"], "content": ["b.png"], "prompt": ["x"]}), bad)
    (tmp_path / "rows.csv").write_text("image_path,caption\na.png,x\n")
    pq.write_table(pa.table({"content": ["a.png"]}), tmp_path / "none.parquet")

    code, output = run(capsys, "manifest", "check", str(good))
    assert code == 0 and "nothing is wrong" in output
    code, output = run(capsys, "manifest", "check", str(bad), "--json")
    assert code == 3 and json.loads(output)["findings"][0]["reason"] == "missing_picture"
    code, output = run(capsys, "manifest", "check", str(tmp_path / "none.parquet"))
    assert code == 2 and "2 faults" in output
    code, output = run(capsys, "manifest", "show", str(good))
    assert code == 0 and "content  string" in output and "a.png" in output
    code, output = run(capsys, "manifest", "check", str(tmp_path / "nothing"))
    assert code == 2 and "no such manifest" in output


def test_translate_and_check_say_the_command_that_makes_a_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "my pics", ["1.png"])
    (tmp_path / "rows.csv").write_text("image_path,caption\na.png,x\n")
    output = str(tmp_path / "run")

    code, said = run(capsys, "translate", str(tmp_path / "rows.csv"), output)
    assert code == 2
    assert "rows.csv -o rows.parquet --column content=image_path --column prompt=caption" in said
    code, said = run(capsys, "translate", str(tmp_path / "my pics"), output)
    assert code == 2
    assert f"dstc manifest build '{tmp_path}/my pics' -o 'my pics.parquet' --prompt TEXT" in said
    code, said = run(capsys, "translate", str(tmp_path / "my pics/1.png"), output)
    assert code == 2 and "-o 1.parquet --prompt TEXT" in said
