"""Names of manifests and of images: hidden files, patterns that are names, spellings, ends."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dstc.errors import ManifestError
from dstc.evaluation.measure_shard import read_images
from dstc.evaluation.plan import EvaluationConfig
from dstc.reporting.thumbnails import Thumbnails
from dstc.store import storage
from dstc.store.input_policy import ASKED_FOR
from dstc.store.manifest import open_manifest
from dstc.store.manifest_files import folder_by_name
from dstc.store.run_folder import RunFolder
from dstc.store.spellings import first_found, spellings, unseen_ends
from dstc.text import visible
from dstc.worker.image_cache import ImageCache
from dstc.worker.row import Rejected, check_row, load_request
from tests.hostile.case import Case

KIND = "Names of files"
CASES = [
    Case(
        KIND, "hidden", "`*.parquet` beside `._rows.parquet`, `_SUCCESS` and `.crc` files", "done"
    ),
    Case(KIND, "brackets", "a manifest called `rows[1].parquet`", "done"),
    Case(KIND, "brackets_of_folder", "a manifest in a folder called `in[ab]`", "done"),
    Case(KIND, "image_brackets", "an image called `p[1]*?.png`", "done"),
    Case(KIND, "output_inside", "OUTPUT inside the manifest's folder, the second time", "done"),
    Case(KIND, "metrics_inside", "measured OUTPUT inside the manifest's folder", "done"),
    Case(
        KIND, "nested_relative", "relative URIs of a file in a folder below the manifest's", "done"
    ),
    Case(
        KIND, "nfd", "an image whose name has its accents apart (NFD), named in one (NFC)", "done"
    ),
    Case(KIND, "nfc", "an image whose name has its accents in one, named apart", "done"),
    Case(KIND, "mixed", "a folder in one spelling and its image in the other", "done"),
    Case(KIND, "manifest_nfd", "a manifest named in the other spelling", "done"),
    Case(KIND, "carriage_return", "a path that ends in `\\r`", "rejected: missing_picture"),
    Case(KIND, "escapes", "a path with terminal escapes in it", "rejected: missing_picture"),
    Case(KIND, "no_match", "a pattern that only hidden files match", "refused: exit 2"),
]

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
Write = Callable[..., Path]


def write(path: Path, rows: int = 1, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    good = {"id": [f"{path.stem}-{n}" for n in range(rows)], "content": ["a.png"] * rows}
    pq.write_table(pa.table({**good, "prompt": ["text"] * rows, **columns}), path)
    return path


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, "PNG")
    return path


def names(uri: Path) -> list[str]:
    return [file.name for file in open_manifest(str(uri), 2).files]


def load(content: str, folder: Path) -> None:
    row = check_row({"id": "a", "content": content, "prompt": "text"}, 0, 0)
    assert load_request(row, str(folder)).content.shape == (8, 8, 3)


def rejected(content: str, folder: Path) -> Rejected:
    with pytest.raises(Rejected) as caught:
        load(content, folder)
    return caught.value


# -- which files are the manifest ------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["", "*.parquet", "**/*.parquet", "*", "[!x]*"])
def test_hidden_files_are_no_data(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "set"
    write(folder / "a.parquet")
    for name in ("._a.parquet", "_b.parquet", "_SUCCESS", ".a.parquet.crc", "_tmp/c.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no Parquet")
    assert names(folder / pattern) == ["a.parquet"]


def test_a_pattern_may_name_what_is_hidden(tmp_path: Path) -> None:
    write(tmp_path / "_drafts" / "_a.parquet")
    (tmp_path / "_drafts" / "._a.parquet").write_bytes(b"no Parquet")
    assert names(tmp_path / "_drafts" / "_*.parquet") == ["_a.parquet"]
    assert names(tmp_path / "_d*" / "_a.parquet") == ["_drafts/_a.parquet"]
    with pytest.raises(ManifestError, match="no file matches"):
        names(tmp_path / "_drafts" / "*.parquet")


def test_what_exists_is_taken_as_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "rows[1].parquet", 2)
    write(tmp_path / "rows1.parquet", 1)
    assert names(tmp_path / "rows[1].parquet") == ["rows[1].parquet"]
    assert names(tmp_path / "rows[0-9].parquet") == ["rows1.parquet"]
    write(tmp_path / "in[ab]" / "x.parquet")
    manifest = open_manifest(str(tmp_path / "in[ab]"), 2)
    assert manifest.folder == str(tmp_path / "in[ab]") and manifest.rows == 1
    assert names(tmp_path / "in[ab]" / "x.parquet") == ["x.parquet"]


def test_the_results_of_a_run_inside_are_no_data(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    for output in ("out", "runs/2"):
        run = RunFolder(str(tmp_path / output))
        for part in (run.part(0), str(tmp_path / output / "metrics" / "features-00000.parquet")):
            Path(part).parent.mkdir(parents=True, exist_ok=True)
            Path(part).write_bytes(b"of another schema")
        Path(run.job).write_text("{}")
    assert names(tmp_path) == names(tmp_path / "**" / "*.parquet") == ["a.parquet"]
    # A folder of this name that belongs to no run is data like any other.
    write(tmp_path / "results" / "part-00000.parquet")
    assert names(tmp_path) == ["a.parquet", "results/part-00000.parquet"]


@pytest.mark.parametrize(("on_disk", "given"), [(NFC, NFD), (NFD, NFC)])
def test_a_manifest_is_found_in_either_spelling(tmp_path: Path, on_disk: str, given: str) -> None:
    write(tmp_path / on_disk / f"{on_disk}.parquet")
    manifest = open_manifest(str(tmp_path / given / f"{given}.parquet"), 2)
    assert manifest.folder == str(tmp_path / on_disk)
    assert names(tmp_path / given) == [f"{on_disk}.parquet"]


def test_relative_uris_start_at_the_manifests_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "set" / "lang=de" / "a.parquet")
    for uri in (tmp_path / "set", tmp_path / "set" / "*" / "*.parquet"):
        assert open_manifest(str(uri), 2).folder == str(tmp_path / "set")
    one = tmp_path / "set" / "lang=de" / "a.parquet"
    assert open_manifest(str(one), 2).folder == str(one.parent)


def test_the_folder_of_a_manifest_that_is_gone() -> None:
    assert folder_by_name("s3://bucket/in/*/a-*.parquet") == "s3://bucket/in"
    assert folder_by_name("s3://bucket/in/") == "s3://bucket/in"
    assert folder_by_name("/in/a.parquet") == "/in"


# -- which files the images are --------------------------------------------------------------------


def test_an_image_is_taken_as_it_is_named(tmp_path: Path) -> None:
    image(tmp_path / "p[1]*?.png")
    load("p[1]*?.png", tmp_path)
    assert rejected("p[12]*.png", tmp_path).reason == "missing_picture"


@pytest.mark.parametrize(
    ("on_disk", "given"),
    [
        (f"{NFD}.png", f"{NFC}.png"),
        (f"{NFC}.png", f"{NFD}.png"),
        (f"{NFD}/{NFC}.png", f"{NFC}/{NFD}.png"),
        (f"{NFD}/{NFD}.png", f"{NFC}/{NFC}.png"),
    ],
)
def test_an_image_is_found_in_either_spelling(tmp_path: Path, on_disk: str, given: str) -> None:
    path = image(tmp_path / on_disk)
    load(given, tmp_path)
    # The one that is named comes first, where both are there.
    image(tmp_path / given)
    path.write_bytes(b"no image")
    load(given, tmp_path)


def test_evaluation_and_report_find_it_too(tmp_path: Path) -> None:
    image(tmp_path / f"{NFD}.png")
    image(tmp_path / "run" / "images" / "a.png")
    config = EvaluationConfig("", 8, -1, "", None, 8, "crop")
    row = {"content": f"{NFC}.png", "image": "images/a.png", "style": " "}
    run = RunFolder(str(tmp_path / "run"))
    found = read_images(run, config, row, str(tmp_path), ImageCache(1 << 20), ASKED_FOR)
    assert found.content.shape == (8, 8, 3) and found.style is None
    assert Thumbnails(8).input(str(tmp_path / f"{NFC}.png")).problem is None


def test_what_nobody_sees_is_shown(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    fault = rejected("a.png\r", tmp_path)
    assert fault.reason == "missing_picture"
    assert str(fault) == (
        "content a.png\\r: there is no such file; it ends in '\\r': expected the name alone"
    )
    fault = rejected("\x1b[31ma\u202e.png", tmp_path)
    assert str(fault) == "content \\x1b[31ma\\u202e.png: there is no such file"
    # What exists is taken as it is named.
    image(tmp_path / "b.png\r")
    load("b.png\r", tmp_path)


# -- properties ------------------------------------------------------------------------------------


@given(st.text())
def test_what_is_visible_stays(text: str) -> None:
    shown = visible(text)
    assert shown == visible(shown)
    assert all(
        mark.isprintable() or unicodedata.category(mark) in ("Zs", "Cn", "Co") for mark in shown
    )
    assert (unseen_ends(text) == "") == (text == text.strip())


@given(st.text(alphabet="ae\u0301\u00e9/\u0308\u00fc\uac00\u1100\u1161.", max_size=12))
def test_spellings_look_alike_and_begin_with_the_one_given(uri: str) -> None:
    found = list(spellings(uri))
    assert found[0] == uri and len(set(found)) == len(found) <= 32
    assert {unicodedata.normalize("NFC", other) for other in found} == {
        "/".join(unicodedata.normalize("NFC", part) for part in uri.split("/"))
    }


def test_the_error_is_of_the_name_that_was_given(tmp_path: Path) -> None:
    given = str(tmp_path / f"{NFC}.png")
    with pytest.raises(FileNotFoundError) as caught:
        storage.read_bytes(given)
    assert NFC in str(caught.value) and NFD not in str(caught.value)
    assert first_found(lambda uri: uri, given) == given
