"""The project's own training and evaluation images: the same emoji drawn in several styles.

Every drawing comes from a pinned npm package under an open licence. Packages are only downloaded
and opened: nothing inside them is run. The result is one Parquet file of small images:

    packages (.tgz) -> drawings by style and subject -> one common box -> rows -> emoji-64.parquet

A *subject* is what is drawn (`1f98a`, a fox), a *style* is who drew it (`noto`), and a *family* is
a group of subjects so alike that they must share a split (every clock face, every heart).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from tiny64.families import SPLITS, family_of, split_of

BOX = 0.9
"""Longest side of every drawing, as a share of the canvas."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(style, done, total)` after each drawing."""


class EmojiDataError(RuntimeError):
    """A package could not be brought, or does not hold what its pinned version should hold."""


@dataclass(frozen=True)
class Package:
    """One pinned npm package."""

    name: str
    version: str

    @property
    def spec(self) -> str:
        """`NAME@VERSION`, as npm writes it."""
        return f"{self.name}@{self.version}"

    @property
    def tarball(self) -> str:
        """File name of the package in the cache folder, as `npm pack` names it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Style:
    """One vendor's way of drawing.

    `layout` says where the drawings lie in the package and how they find their subject:
    `chars` (icons.json, by code point), `names` (icons.json, by name only), `line` (SVG files) or
    `webp` (WebP files).
    """

    package: Package
    layout: str
    licence: str
    core: bool


STYLES: Mapping[str, Style] = {
    "twemoji": Style(Package("@iconify-json/twemoji", "1.2.5"), "chars", "CC-BY-4.0", True),
    "noto": Style(Package("@iconify-json/noto", "1.2.9"), "chars", "Apache-2.0", True),
    "openmoji": Style(Package("@iconify-json/openmoji", "1.2.29"), "chars", "CC-BY-SA-4.0", True),
    "openmoji_line": Style(Package("openmoji", "17.0.0"), "line", "CC-BY-SA-4.0", True),
    "fluent_flat": Style(Package("@iconify-json/fluent-emoji-flat", "1.2.6"), "chars", "MIT", True),
    "fluent_3d": Style(Package("@lobehub/fluent-emoji-3d", "1.1.0"), "webp", "MIT", True),
    "fluent_color": Style(Package("@iconify-json/fluent-emoji", "1.2.7"), "names", "MIT", False),
    "noto_v1": Style(Package("@iconify-json/noto-v1", "1.2.5"), "names", "Apache-2.0", False),
    "emojione": Style(Package("@iconify-json/emojione", "1.2.3"), "names", "CC-BY-4.0", False),
    "fxemoji": Style(Package("@iconify-json/fxemoji", "1.2.2"), "names", "CC-BY-4.0", False),
}
CORE_STYLES = tuple(name for name, style in STYLES.items() if style.core)
OPTIONAL_STYLES = tuple(name for name, style in STYLES.items() if not style.core)

NAMES = Package("unicode-emoji-json", "0.9.0")
KEYWORDS = Package("emojilib", "4.0.3")

_LEFT_OUT = {
    "1f195": "the NEW button is an empty file in the line set",
}


@dataclass(frozen=True)
class Subject:
    """What an emoji shows, whoever drew it.

    Attributes:
        code: lower-case code points joined by "-", without the variation selector fe0f.
        name: English name, such as "fox".
        group: one of the nine Unicode groups, such as "Animals & Nature".
        keywords: English search words.
        family: subjects of one family are always in the same split.
        split: "train", "val" or "test".
    """

    code: str
    name: str
    group: str
    keywords: tuple[str, ...]
    family: str
    split: str


@dataclass(frozen=True)
class Drawing:
    """One vendor's file for one subject: SVG text or WebP bytes, not rasterised yet."""

    svg: str | None = None
    webp: bytes | None = None


# --- code points ----------------------------------------------------------------------------------


def subject_code(text: str) -> str:
    """Code points as vendors write them, in the one form used here.

    Args:
        text: hexadecimal code points joined by "-", any case, any zero padding.

    Returns:
        The same in lower case, without padding and without fe0f: "00A9-FE0F" gives "a9".

    Raises:
        ValueError: a part is not hexadecimal.
    """
    try:
        points = [int(part, 16) for part in text.split("-")]
    except ValueError:
        raise ValueError(
            f"{text!r} is not a list of code points; expected something like '1F469-200D-1F33E'"
        ) from None
    return "-".join(f"{point:x}" for point in points if point != 0xFE0F)


def code_of_emoji(emoji: str) -> str:
    """`subject_code` of an emoji given as characters."""
    return subject_code("-".join(f"{ord(character):x}" for character in emoji))


def _has_skin_tone(code: str) -> bool:
    return any(0x1F3FB <= int(part, 16) <= 0x1F3FF for part in code.split("-"))


# --- packages -------------------------------------------------------------------------------------


def fetch_package(package: Package, cache: Path) -> Path:
    """Brings one npm package into the cache folder as a tarball, once. Nothing of it is run.

    Args:
        package: which package and version.
        cache: folder for the tarballs; made if it is missing, kept for the next build.

    Returns:
        Path of the tarball, opened once to see that it is the package that was asked for.

    Raises:
        EmojiDataError: npm is missing, or the pack failed (with what npm said), or what came is
            not this package.
    """
    target = cache / package.tarball
    if target.is_file() and _is_package(target, package):
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise EmojiDataError(
            f"npm is needed to download {package.spec} and is not on the PATH; install Node.js, "
            f"or put {package.tarball} into {cache} yourself"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".pack-") as temporary:
        # Run inside the empty folder, so that no package.json nearby has a say.
        result = subprocess.run(
            [npm, "pack", "--ignore-scripts", "--pack-destination", ".", package.spec],
            cwd=temporary,
            capture_output=True,
            text=True,
            check=False,
        )
        packed = sorted(Path(temporary).glob("*.tgz"))
        if result.returncode != 0 or len(packed) != 1:
            raise EmojiDataError(
                f"npm pack {package.spec} failed with exit code {result.returncode}; npm said: "
                f"{_last_lines(result.stderr) or 'nothing'}"
            )
        if not _is_package(packed[0], package):
            raise EmojiDataError(
                f"npm pack {package.spec} brought a file that is not a tarball of this package"
            )
        os.replace(packed[0], target)
    return target


def _last_lines(text: str, count: int = 6) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-count:])


def _is_package(tarball: Path, package: Package) -> bool:
    try:
        manifest = json.loads(_read_members(tarball, ["package.json"])["package.json"])
    except (EmojiDataError, ValueError):
        return False
    return bool(manifest.get("name") == package.name and manifest.get("version") == package.version)


def _read_members(tarball: Path, names: Collection[str]) -> dict[str, bytes]:
    """Files of a tarball by their name below `package/`; every name asked for must be there."""
    found = {name: data for name, data in _iter_members(tarball) if name in names}
    missing = sorted(set(names) - set(found))
    if missing:
        raise EmojiDataError(f"{tarball.name} holds no {', '.join(missing)}")
    return found


def _iter_members(tarball: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and member.name.startswith("package/"):
                    yield member.name.removeprefix("package/"), stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise EmojiDataError(f"{tarball} is not a readable npm tarball: {error}") from error


def _read_json(tarball: Path, *names: str) -> tuple[Any, ...]:
    members = _read_members(tarball, names)
    return tuple(json.loads(members[name]) for name in names)


# --- drawings -------------------------------------------------------------------------------------


def _icon_svg(icons: Mapping[str, Any], name: str) -> str:
    """A whole SVG document from one icon of an icon set, sizes defaulting to those of the set."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">'
        f"{icon['body']}</svg>"
    )


def _by_code_point(tarball: Path) -> dict[str, Drawing]:
    icons, chars = _read_json(tarball, "icons.json", "chars.json")
    return {
        subject_code(code): Drawing(svg=_icon_svg(icons, name))
        for code, name in chars.items()
        if name in icons["icons"]
    }


_FILLER_WORDS = frozenset({"a", "and", "for", "in", "of", "on", "the", "with"})


def _squashed(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "".join(word for word in words if word not in _FILLER_WORDS)


def _by_name(tarball: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Drawing]:
    """Drawings of sets that know names only.

    Args:
        tarball: an icon set.
        names: for each subject the names it goes by, the best first.
    """
    (icons,) = _read_json(tarball, "icons.json")
    own = {name: name for name in icons["icons"]}
    for alias, entry in icons.get("aliases", {}).items():
        # An alias that also turns or mirrors its parent would be another drawing.
        if set(entry) == {"parent"} and entry["parent"] in own:
            own.setdefault(alias, entry["parent"])
    squashed: dict[str, str] = {}
    for name, icon in own.items():
        squashed.setdefault(_squashed(name), icon)
    claims: dict[str, list[str]] = {}
    for code, candidates in names.items():
        hits = (squashed.get(_squashed(name)) for name in candidates)
        icon = next((hit for hit in hits if hit is not None), None)
        if icon is not None:
            claims.setdefault(icon, []).append(code)
    # "cricket" is the insect to one vendor and the game to another: nobody gets that drawing.
    return {
        codes[0]: Drawing(svg=_icon_svg(icons, icon))
        for icon, codes in claims.items()
        if len(codes) == 1
    }


def _by_file_name(tarball: Path, folder: str, suffix: str) -> dict[str, Drawing]:
    drawings = {}
    for path, data in _iter_members(tarball):
        stem = path.removeprefix(folder).removesuffix(suffix)
        if path == folder + stem + suffix and re.fullmatch(r"[0-9A-Fa-f]+(-[0-9A-Fa-f]+)*", stem):
            drawing = Drawing(svg=data.decode()) if suffix == ".svg" else Drawing(webp=data)
            drawings[subject_code(stem)] = drawing
    return drawings


@dataclass(frozen=True)
class EmojiSource:
    """Everything the packages hold, before a pixel is drawn.

    Attributes:
        subjects: those that every core style draws, by code.
        drawings: for each style asked for, its drawings by subject code.
    """

    subjects: Mapping[str, Subject]
    drawings: Mapping[str, Mapping[str, Drawing]]


def open_source(cache: Path, *, styles: Iterable[str] = tuple(STYLES)) -> EmojiSource:
    """Downloads what is missing and opens the packages.

    The core packages are always opened: a subject counts only where all six draw it, whichever
    styles are asked for.

    Args:
        cache: folder of the tarballs.
        styles: names from `STYLES`.

    Returns:
        The subjects common to the six core styles (1,561 with the pinned versions) and the
        drawings of the styles asked for. Optional styles miss some subjects.

    Raises:
        ValueError: a style that does not exist.
        EmojiDataError: a package could not be brought or read.
    """
    wanted = tuple(styles)
    unknown = sorted(set(wanted) - set(STYLES))
    if unknown or not wanted:
        found = f"unknown styles {unknown}" if unknown else "no style asked for"
        raise ValueError(f"{found}; give some of {', '.join(STYLES)}")
    drawings = {name: _core_drawings(name, cache) for name in CORE_STYLES}
    # The 3D set knows ids that its flat twin does not; common to all means left out.
    common = set.intersection(*(set(found) for found in drawings.values()))
    subjects = _subjects(cache, common)
    names = {code: _names_of(subject) for code, subject in subjects.items()}
    if optional := [style for style in wanted if style in OPTIONAL_STYLES]:
        for package in {
            STYLES[style].package for style in CORE_STYLES if STYLES[style].layout == "chars"
        }:
            (chars,) = _read_json(fetch_package(package, cache), "chars.json")
            for code, name in sorted(chars.items()):
                if (subject := subject_code(code)) in names:
                    names[subject].append(name)
        for style in optional:
            drawings[style] = _by_name(fetch_package(STYLES[style].package, cache), names)
    return EmojiSource(
        subjects=subjects,
        drawings={
            style: {
                code: drawings[style][code] for code in sorted(subjects) if code in drawings[style]
            }
            for style in wanted
        },
    )


def _core_drawings(style: str, cache: Path) -> dict[str, Drawing]:
    tarball = fetch_package(STYLES[style].package, cache)
    layout = STYLES[style].layout
    if layout == "chars":
        return _by_code_point(tarball)
    if layout == "line":
        return _by_file_name(tarball, "black/svg/", ".svg")
    return _by_file_name(tarball, "assets/", ".webp")


def _names_of(subject: Subject) -> list[str]:
    names = [subject.name]
    if "-" not in subject.code:
        # Older sets use the formal character name, such as "white sun with small cloud".
        names.append(unicodedata.name(chr(int(subject.code, 16)), subject.name))
    return names


def _subjects(cache: Path, common: Collection[str]) -> dict[str, Subject]:
    (table,) = _read_json(fetch_package(NAMES, cache), "data-by-emoji.json")
    (words,) = _read_json(fetch_package(KEYWORDS, cache), "dist/emoji-en-US.json")
    keywords = {code_of_emoji(emoji): tuple(found) for emoji, found in words.items()}
    subjects = {}
    for emoji, entry in table.items():
        code = code_of_emoji(emoji)
        if code not in common or code in _LEFT_OUT or entry["group"] == "Flags":
            continue
        if _has_skin_tone(code):
            continue
        family = family_of(entry["name"], entry["group"])
        subjects[code] = Subject(
            code, entry["name"], entry["group"], keywords.get(code, ()), family, split_of(family)
        )
    return subjects


# --- pixels ---------------------------------------------------------------------------------------


def rasterise(drawing: Drawing, side: int) -> Image.Image:
    """Draws a vendor's file at its own proportions.

    Args:
        drawing: SVG or WebP.
        side: longest side in pixels for SVG; WebP keeps its own pixels (256).

    Returns:
        RGBA image, transparent where nothing is drawn.

    Raises:
        ValueError: the SVG cannot be drawn.
        EmojiDataError: resvg-py, which draws SVG, is not installed.
    """
    if drawing.webp is not None:
        return Image.open(io.BytesIO(drawing.webp)).convert("RGBA")
    if drawing.svg is None:
        raise ValueError("a drawing needs SVG text or WebP bytes; this one has neither")
    try:
        import resvg_py  # Only a build needs it; reading the finished file does not.
    except ImportError as error:
        raise EmojiDataError(
            "resvg-py is needed to draw SVG and is not installed; pip install 'dstc[data]'"
        ) from error
    # One side only, so that the other follows from the drawing and nothing is stretched.
    png = resvg_py.svg_to_bytes(svg_string=drawing.svg, width=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def fit_to_box(
    drawing: Image.Image, size: int, *, box: float = BOX
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Puts a drawing on a white square: scaled to the common box, centred, never stretched.

    Args:
        drawing: RGBA of any size and proportions; what is transparent does not count.
        size: side of the result in pixels.
        box: longest side of the drawing as a share of `size`.

    Returns:
        The image, RGB of (size, size), and the drawing's bounding box in it as pixels
        (left, top, right, bottom), right and bottom exclusive.

    Raises:
        ValueError: nothing is drawn.
    """
    # Below 8 of 255 lie only the last traces of soft shadows, which would shrink the object.
    bounds = drawing.getchannel("A").point(lambda alpha: 255 if alpha >= 8 else 0).getbbox()
    if bounds is None:
        raise ValueError("the drawing is empty: every pixel is transparent")
    cut = drawing.crop(bounds)
    side = math.ceil(max(cut.size) / box)
    left, top = (side - cut.width) // 2, (side - cut.height) // 2
    # White goes under the drawing before it is scaled, so that no dark rim is mixed in.
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(cut, (left, top), cut)
    # Hamming, not Lanczos: no ringing, which would put grey lines around black outlines.
    image = canvas.resize((size, size), Image.Resampling.HAMMING)
    scale = size / side
    return image, (
        math.floor(left * scale),
        math.floor(top * scale),
        math.ceil((left + cut.width) * scale),
        math.ceil((top + cut.height) * scale),
    )


def draw(drawing: Drawing, size: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """`rasterise` and `fit_to_box` together, drawn four times larger than needed, then reduced."""
    return fit_to_box(rasterise(drawing, 4 * size), size)


def png_bytes(image: Image.Image) -> bytes:
    """PNG of an image, without any text chunk, so that equal pixels are equal bytes."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


# --- the file -------------------------------------------------------------------------------------

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("subject", pa.string()),
        ("name", pa.string()),
        ("group", pa.string()),
        ("keywords", pa.list_(pa.string())),
        ("style", pa.string()),
        ("core", pa.bool_()),
        ("family", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("png", pa.binary()),
    ]
)


def build_emoji(
    folder: Path,
    *,
    size: int = 64,
    styles: Iterable[str] = tuple(STYLES),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Builds the emoji data set: one Parquet file, a row per drawing.

    Rows are sorted by (style, subject), one row group per style, so that a style can be read
    alone. Images are PNG, RGB of (size, size), white background, drawing inside the middle 0.9.
    The same packages and the same size give the same images and splits everywhere.

    Args:
        folder: where `emoji-<size>.parquet` goes; made if it is missing.
        size: side of the images in pixels.
        styles: names from `STYLES`; the six core ones take about a minute at 64 pixels.
        cache: folder of the downloaded packages; `folder/npm` when not given.
        progress: called as `progress(style, done, total)` after each drawing.

    Returns:
        Path of the file, which appears whole or not at all.

    Raises:
        ValueError: a style that does not exist, or a size below 8.
        EmojiDataError: a package could not be brought or read, or a drawing in it is unusable.
    """
    if size < 8:
        raise ValueError(f"size is the side of the images in pixels, at least 8; got {size}")
    source = open_source(cache or folder / "npm", styles=styles)
    target = folder / f"emoji-{size}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with _whole_file(target) as temporary:
        schema = SCHEMA.with_metadata(_metadata(source, size))
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for style in sorted(source.drawings):
                rows = list(_rows(source, style, size, progress))
                table = pa.Table.from_pylist(rows, schema=schema)
                writer.write_table(table, row_group_size=max(1, len(rows)))
    return target


def read_emoji(
    path: Path,
    *,
    styles: Collection[str] | None = None,
    splits: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Reads a file made by `build_emoji`, only the styles, splits and columns asked for.

    Args:
        path: the Parquet file.
        styles: style names; all when not given.
        splits: some of "train", "val", "test"; all when not given.
        columns: column names; all when not given.

    Returns:
        The rows in file order: by style, then subject.

    Raises:
        ValueError: a style that the file does not hold, or a split that does not exist.
    """
    with pq.ParquetFile(path) as file:
        groups = {
            file.metadata.row_group(index).column(_STYLE_COLUMN).statistics.min: index
            for index in range(file.num_row_groups)
        }
        missing = sorted(set(styles or ()) - set(groups))
        if missing:
            raise ValueError(f"{path.name} holds no style {missing}; it has {sorted(groups)}")
        unknown = sorted(set(splits or ()) - set(SPLITS))
        if unknown:
            raise ValueError(f"unknown splits {unknown}; expected some of {list(SPLITS)}")
        wanted = sorted(groups[style] for style in (groups if styles is None else styles))
        read = None if columns is None else list(dict.fromkeys([*columns, "split"]))
        table = file.read_row_groups(wanted, columns=read)
    if splits is not None:
        table = table.filter(pc.is_in(table["split"], value_set=pa.array(sorted(splits))))
    return table if columns is None else table.select(list(columns))


_STYLE_COLUMN = SCHEMA.get_field_index("style")


def _rows(
    source: EmojiSource, style: str, size: int, progress: Progress | None
) -> Iterator[dict[str, Any]]:
    drawings = source.drawings[style]
    for done, (code, drawing) in enumerate(sorted(drawings.items()), start=1):
        subject = source.subjects[code]
        try:
            image, _ = draw(drawing, size)
        except (ValueError, OSError) as error:
            spec = STYLES[style].package.spec
            raise EmojiDataError(f"{spec}, {code} ({subject.name}): {error}") from error
        yield {
            "id": f"{style}/{code}",
            "subject": code,
            "name": subject.name,
            "group": subject.group,
            "keywords": list(subject.keywords),
            "style": style,
            "core": STYLES[style].core,
            "family": subject.family,
            "split": subject.split,
            "licence": STYLES[style].licence,
            "png": png_bytes(image),
        }
        if progress is not None:
            progress(style, done, len(drawings))


def _metadata(source: EmojiSource, size: int) -> dict[str, str]:
    packages = [STYLES[style].package for style in sorted(source.drawings)] + [NAMES, KEYWORDS]
    return {
        "packages": json.dumps({package.name: package.version for package in packages}),
        "size": str(size),
        "box": str(BOX),
        "background": "white",
    }


@contextlib.contextmanager
def _whole_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its name only if the body succeeds."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
