"""Made-up packages and drawings: no network, no npm."""

import io
import json
import stat
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tiny64.data as emoji_data
from tiny64.captions import STYLE_PHRASES
from tiny64.data import (
    CORE_STYLES,
    KEYWORDS,
    NAMES,
    STYLES,
    Drawing,
    EmojiDataError,
    Package,
    build_emoji,
    code_of_emoji,
    draw,
    fetch_package,
    fit_to_box,
    open_source,
    png_bytes,
    rasterise,
    read_emoji,
    subject_code,
)


def svg_of(body: str, width: float = 36, height: float = 36) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )


def dark_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Bounding box of what is clearly not white: left, top, right, bottom."""
    rows, columns = np.nonzero(np.asarray(image.convert("L")) < 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


# --- code points


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("00A9", "a9"),
        ("a9", "a9"),
        ("00a9-fe0f", "a9"),
        ("1F469-200D-2764-FE0F-200D-1F468", "1f469-200d-2764-200d-1f468"),
        ("0023-FE0F-20E3", "23-20e3"),
    ],
)
def test_code_points_have_one_form(text, code):
    assert subject_code(text) == code


def test_an_emoji_and_its_file_name_meet():
    assert code_of_emoji("❤️") == subject_code("2764-FE0F") == "2764"


def test_text_that_is_no_code_point_is_refused():
    with pytest.raises(ValueError, match="'fox' is not a list of code points"):
        subject_code("fox")


# --- drawings


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize(
    "body",
    [
        '<rect x="1" y="2" width="20" height="5"/>',
        '<rect x="30" y="0" width="3" height="36"/>',
        '<rect width="36" height="36"/>',
    ],
)
def test_drawings_fill_nine_tenths_of_the_canvas_and_are_centerd(body, size):
    image, box = draw(Drawing(svg=svg_of(body)), size)
    left, top, right, bottom = dark_box(image)
    assert max(right - left, bottom - top) == pytest.approx(0.9 * size, abs=1)
    assert abs(left + right - size) <= 2
    assert abs(top + bottom - size) <= 2
    assert np.abs(np.subtract(box, (left, top, right, bottom))).max() <= 1


def test_proportions_are_kept():
    wide = Drawing(svg=svg_of('<rect x="2" y="2" width="32" height="8"/>', width=72))
    left, top, right, bottom = dark_box(draw(wide, 128)[0])
    assert (right - left) / (bottom - top) == pytest.approx(4, rel=0.05)


def test_background_is_white_and_soft_edges_blend_into_it():
    body = '<rect x="8" y="8" width="20" height="20" fill="#ff0000" fill-opacity="0.5"/>'
    pixels = np.asarray(draw(Drawing(svg=svg_of(body)), 64)[0])
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels[32, 32].astype(int) - [255, 127, 127]).max() <= 2


def test_faint_shadow_does_not_shrink_the_object():
    drawing = Image.new("RGBA", (400, 400), (0, 0, 0, 3))
    drawing.paste((0, 0, 0, 255), (100, 100, 300, 300))
    left, _, right, _ = dark_box(fit_to_box(drawing, 64)[0])
    assert right - left == pytest.approx(0.9 * 64, abs=1)


def test_empty_drawing_is_refused():
    with pytest.raises(ValueError, match="every pixel is transparent"):
        fit_to_box(Image.new("RGBA", (8, 8)), 64)


def test_webp_keeps_its_transparency():
    stream = io.BytesIO()
    Image.new("RGBA", (20, 10), (0, 0, 255, 0)).save(stream, "WEBP", lossless=True)
    image = rasterise(Drawing(webp=stream.getvalue()), 64)
    assert (image.mode, image.size) == ("RGBA", (20, 10))
    assert image.getchannel("A").getextrema() == (0, 0)


def test_equal_drawings_are_equal_bytes():
    drawing = Drawing(svg=svg_of('<circle cx="18" cy="18" r="9" fill="green"/>'))
    assert png_bytes(draw(drawing, 64)[0]) == png_bytes(draw(drawing, 64)[0])


# --- packages


def write_tarball(path: Path, package: Package, files: dict[str, bytes]) -> Path:
    described = {"name": package.name, "version": package.version}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {"package.json": json.dumps(described).encode(), **files}.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts a program called npm first on the PATH; give it the shell script to be."""

    def put(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "npm"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return put


PACKAGE = Package("@somebody/images", "1.0.0")


def test_missing_npm_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmojiDataError, match="npm is needed to download @somebody/images@1.0.0"):
        fetch_package(PACKAGE, tmp_path / "cache")


def test_failed_pack_names_the_package_and_what_npm_said(tmp_path, npm):
    npm('echo "npm error 404 no such version" >&2; exit 7')
    with pytest.raises(EmojiDataError, match="@somebody/images@1.0.0 .*code 7.*404 no such"):
        fetch_package(PACKAGE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_package_is_packed_once_and_without_scripts(tmp_path, npm):
    ready = write_tarball(tmp_path / "ready.tgz", PACKAGE, {})
    npm(f'echo "$@" >> {tmp_path}/calls; cp {ready} ./some-name.tgz')
    first = fetch_package(PACKAGE, tmp_path / "cache")
    assert first == fetch_package(PACKAGE, tmp_path / "cache")
    assert first.name == "somebody-images-1.0.0.tgz"
    assert (tmp_path / "calls").read_text() == (
        "pack --ignore-scripts --pack-destination . @somebody/images@1.0.0\n"
    )


def test_broken_tarball_in_the_cache_is_packed_again(tmp_path, npm):
    ready = write_tarball(tmp_path / "ready.tgz", PACKAGE, {})
    npm(f"cp {ready} ./some-name.tgz")
    cached = tmp_path / "cache" / PACKAGE.tarball
    cached.parent.mkdir()
    cached.write_bytes(ready.read_bytes()[:40])
    assert fetch_package(PACKAGE, cached.parent).read_bytes() == ready.read_bytes()


def test_another_package_than_asked_for_is_refused(tmp_path, npm):
    ready = write_tarball(tmp_path / "ready.tgz", Package("@somebody/images", "6.6.6"), {})
    npm(f"cp {ready} ./some-name.tgz")
    with pytest.raises(EmojiDataError, match="not a tarball of this package"):
        fetch_package(PACKAGE, tmp_path / "cache")


# --- the whole build, on made-up packages

DRAWN = {  # what each made-up vendor draws: code points, name, width of a black bar
    "1f98a": ("fox", 4),
    "1f42f": ("tiger-face", 8),
    "00a9": ("copyright", 12),
    "1f195": ("new-button", 16),
    "1f1e6-1f1e8": ("flag", 20),
    "1f44b-1f3fb": ("waving-hand-light-skin-tone", 24),
    "1f47b": ("ghost", 28),
}


def bar(width: int) -> str:
    return f'<rect width="{width}" height="30"/>'


@pytest.fixture
def cache(tmp_path):
    """A cache folder with a small stand-in for every pinned package; the ghost has no 3D twin."""
    folder = tmp_path / "npm"
    folder.mkdir()
    for style in STYLES.values():
        icons = {
            "width": 36,
            "height": 36,
            "icons": {name: {"body": bar(width)} for name, width in DRAWN.values()},
        }
        if style.layout == "names":
            del icons["icons"]["fox"], icons["icons"]["tiger-face"]
            icons["icons"]["of-the-tiger-face"] = {"body": bar(2)}
            icons["aliases"] = {"fox": {"parent": "of-the-tiger-face", "hFlip": True}}
        files = {}
        if style.layout in ("chars", "names"):
            files["icons.json"] = json.dumps(icons).encode()
            files["chars.json"] = json.dumps({c: name for c, (name, _) in DRAWN.items()}).encode()
        for code, (_, width) in DRAWN.items():
            if style.layout == "line":
                files[f"black/svg/{code.upper()}.svg"] = svg_of(bar(width)).encode()
                files[f"color/svg/{code.upper()}.svg"] = b"not the line set"
            elif style.layout == "webp" and code != "1f47b":
                stream = io.BytesIO()
                Image.new("RGBA", (width, 30), "black").save(stream, "WEBP", lossless=True)
                files[f"assets/{code}-fe0f.webp"] = stream.getvalue()
        write_tarball(folder / style.package.tarball, style.package, files)
    table = {
        "".join(chr(int(part, 16)) for part in code.split("-")): {
            "name": name.replace("-", " "),
            "group": "Flags" if name == "flag" else "Animals & Nature",
        }
        for code, (name, _) in DRAWN.items()
    }
    names = {"data-by-emoji.json": json.dumps(table).encode()}
    write_tarball(folder / NAMES.tarball, NAMES, names)
    words = {"dist/emoji-en-US.json": json.dumps({"🦊": ["fox", "animal"]}).encode()}
    write_tarball(folder / KEYWORDS.tarball, KEYWORDS, words)
    return folder


def test_subjects_are_those_that_all_core_styles_draw(cache):
    source = open_source(cache, styles=["noto"])
    assert sorted(source.subjects) == ["1f42f", "1f98a", "a9"]
    assert sorted(source.drawings) == ["noto"]
    assert source.subjects["1f98a"].keywords == ("fox", "animal")
    assert source.subjects["1f42f"].family == "tiger"


def test_sets_that_know_only_names_match_by_name_and_never_by_a_mirrored_alias(cache):
    drawings = open_source(cache, styles=["emojione"]).drawings["emojione"]
    assert sorted(drawings) == ["1f42f", "a9"]
    assert bar(2) in drawings["1f42f"].svg


def test_a_drawing_that_two_subjects_claim_goes_to_neither(cache):
    # This vendor calls the tiger a copyright sign, as one calls the insect like the game.
    package = STYLES["twemoji"].package
    chars = {code: name for code, (name, _) in DRAWN.items()} | {"1f42f": "copyright"}
    icons = {"icons": {name: {"body": bar(width)} for name, width in DRAWN.values()}}
    files = {"icons.json": icons, "chars.json": chars}
    packed = {name: json.dumps(data).encode() for name, data in files.items()}
    write_tarball(cache / package.tarball, package, packed)
    optional = STYLES["fxemoji"].package
    icons = {"icons": {"copyright": {"body": bar(3)}, "fox": {"body": bar(5)}}}
    write_tarball(cache / optional.tarball, optional, {"icons.json": json.dumps(icons).encode()})
    assert sorted(open_source(cache, styles=["fxemoji"]).drawings["fxemoji"]) == ["1f98a"]


def test_file_is_sorted_and_one_row_group_holds_one_style(cache, tmp_path):
    path = build_emoji(tmp_path / "out", size=16, styles=["twemoji", "fluent_3d"], cache=cache)
    assert [item.name for item in path.parent.iterdir()] == ["emoji-16.parquet"]
    file = pq.ParquetFile(path)
    styles = [set(file.read_row_group(index)["style"].to_pylist()) for index in range(2)]
    assert styles == [{"fluent_3d"}, {"twemoji"}]
    rows = file.read().to_pylist()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert [row["id"] for row in rows][:3] == ["fluent_3d/1f42f", "fluent_3d/1f98a", "fluent_3d/a9"]
    assert {row["licence"] for row in rows} == {"MIT", "CC-BY-4.0"}
    assert all(row["core"] for row in rows)
    image = Image.open(io.BytesIO(rows[0]["png"]))
    assert (image.mode, image.size) == ("RGB", (16, 16))
    metadata = file.schema_arrow.metadata
    assert (metadata[b"size"], metadata[b"box"]) == (b"16", b"0.9")
    assert json.loads(metadata[b"packages"])["@lobehub/fluent-emoji-3d"] == "1.1.0"


def test_same_packages_give_the_same_file(cache, tmp_path):
    one = build_emoji(tmp_path / "one", size=16, cache=cache)
    two = build_emoji(tmp_path / "two", size=16, cache=cache)
    assert one.read_bytes() == two.read_bytes()


def test_progress_counts_each_style_to_its_end(cache, tmp_path):
    seen = []
    build_emoji(
        tmp_path, size=8, styles=["noto"], cache=cache, progress=lambda *step: seen.append(step)
    )
    assert seen == [("noto", 1, 3), ("noto", 2, 3), ("noto", 3, 3)]


def test_unusable_drawing_is_named_and_leaves_no_file(cache, tmp_path):
    style = STYLES["openmoji_line"]
    files = {f"black/svg/{code}.svg": svg_of("").encode() for code in DRAWN}
    write_tarball(cache / style.package.tarball, style.package, files)
    with pytest.raises(EmojiDataError, match=r"openmoji@17.0.0, 1f42f \(tiger face\): .*empty"):
        build_emoji(tmp_path / "out", size=16, styles=["openmoji_line"], cache=cache)
    assert list((tmp_path / "out").iterdir()) == []


def test_reading_takes_only_what_is_asked_for(cache, tmp_path):
    path = build_emoji(tmp_path, size=8, cache=cache)
    table = read_emoji(path, styles=["noto"], splits=["val"], columns=["id"])
    assert table.column_names == ["id"]
    assert table["id"].to_pylist() == ["noto/1f42f"]
    assert read_emoji(path).num_rows == 3 * len(CORE_STYLES) + 2 * 4


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"styles": ["noto", "crayon"]}, r"holds no style \['crayon'\]; it has \['noto'\]"),
        ({"splits": ["dev"]}, r"unknown splits \['dev'\]"),
    ],
)
def test_reading_what_is_not_there_is_refused(cache, tmp_path, choice, message):
    path = build_emoji(tmp_path, size=8, styles=["noto"], cache=cache)
    with pytest.raises(ValueError, match=message):
        read_emoji(path, **choice)


def test_unknown_style_and_tiny_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown styles \['crayon'\]; give some of twemoji"):
        build_emoji(tmp_path, styles=["crayon"])
    with pytest.raises(ValueError, match="no style asked for"):
        build_emoji(tmp_path, styles=[])
    with pytest.raises(ValueError, match="at least 8; got 4"):
        build_emoji(tmp_path, size=4)


def test_every_core_style_has_a_phrase_for_captions():
    assert set(STYLE_PHRASES) == set(emoji_data.CORE_STYLES)
