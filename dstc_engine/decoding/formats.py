"""Which format a file has, by its first bytes: those that are decoded, and the names of others.

An allow-list. Pillow alone would try forty formats, and run Ghostscript on one of them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dstc_engine.errors import ImageError

READERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PNM": PpmImagePlugin.PpmImageFile,
}
# Either makes Pillow read HEIC; pi_heif decodes only, and brings no encoder under the GPL.
_HEIC_PLUGINS = ("pi_heif", "pillow_heif")
EXPECTED = "expected PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP or PNM"

_TO_PNG = "convert it to PNG or JPEG"
_TO_TIFF = "convert it to PNG or TIFF"
_UNPACK = "unpack it, and name the images in it"
_EXPORT = "export it as PNG"
_PAGE = "the URI answers with a page instead of an image: check it, and whether it needs a login"

# What is decoded; `_box` and `_text` see to the rest. Longer signatures stand before shorter ones.
_DECODED = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    *((b"P" + digit, "PNM") for digit in (b"1", b"2", b"3", b"4", b"5", b"6", b"f")),
)
_OTHERS = (
    (b"\xff\x0a", "JPEG XL", _TO_PNG),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _TO_PNG),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _TO_PNG),
    (b"\xff\x4f\xff\x51", "JPEG 2000", _TO_PNG),
    (b"II\xbc", "JPEG XR", _TO_PNG),
    (b"%!PS", "EPS or PostScript", _EXPORT),
    (b"\xc5\xd0\xd3\xc6", "EPS", _EXPORT),
    (b"%PDF", "PDF", _EXPORT),
    (b"8BPS", "a Photoshop file", _EXPORT),
    (b"gimp xcf", "a GIMP file", _EXPORT),
    (b"v/1\x01", "OpenEXR", _TO_PNG),
    (b"#?RADIANCE", "Radiance HDR", _TO_PNG),
    (b"#?RGBE", "Radiance HDR", _TO_PNG),
    (b"PF\n", "a PFM file of three colors", _TO_PNG),
    (b"P7\n", "PAM", _TO_PNG),
    (b"qoif", "QOI", _TO_PNG),
    (b"DDS ", "DDS", _TO_PNG),
    (b"\xabKTX", "KTX", _TO_PNG),
    (b"BPG\xfb", "BPG", _TO_PNG),
    (b"FLIF", "FLIF", _TO_PNG),
    (b"\0\0\x01\0", "an icon (ICO)", _TO_PNG),
    (b"\0\0\x02\0", "a cursor (CUR)", _TO_PNG),
    (b"icns", "an icon (ICNS)", _TO_PNG),
    (b"\x01\xda", "SGI", _TO_PNG),
    (b"\xd7\xcd\xc6\x9a", "WMF", _EXPORT),
    (b"\x8aMNG", "MNG", _TO_PNG),
    (b"SIMPLE  =", "FITS", _TO_TIFF),
    (b"\x89HDF", "HDF5", _TO_TIFF),
    (b"CDF", "NetCDF", _TO_TIFF),
    (b"\x93NUMPY", "a NumPy array", _TO_TIFF),
    (b"PAR1", "Parquet", "name the images themselves"),
    (b"FUJIFILMCCD-RAW", "a raw file of a camera", _TO_PNG),
    (b"IIRO", "a raw file of a camera", _TO_PNG),
    (b"IIRS", "a raw file of a camera", _TO_PNG),
    (b"IIU\0", "a raw file of a camera", _TO_PNG),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)", "extract its frames"),
    (b"\x80\x04\x95", "a pickle", _TO_PNG),
    (b"\x7fELF", "a program", "name an image"),
)
_TEXTS = (
    (
        "version https://git-lfs",
        "a git LFS pointer instead of the image",
        "fetch the images with `git lfs pull`",
    ),
    ("<!doctype html", "an HTML page", _PAGE),
    ("<html", "an HTML page", _PAGE),
    ("<head", "an HTML page", _PAGE),
    ("<svg", "SVG", _EXPORT),
    ("<", "XML", "the storage may have answered with an error: check the URI"),
    ("{", "JSON", "the server may have answered with an error: check the URI"),
    ("[", "JSON", "the server may have answered with an error: check the URI"),
    ("data:", "the text of a data: URI", "write its bytes to a file"),
    ("http://", "the text of a URI", "give that URI itself"),
    ("https://", "the text of a URI", "give that URI itself"),
    ("/9j/", "an image in base64", "write its bytes to a file"),
    ("ivborw0kggo", "an image in base64", "write its bytes to a file"),
)


def format_of(data: bytes) -> str:
    """The format of a file, a key of `READERS` or "HEIC".

    Raises:
        ImageError: another format, by its name and with what to do; never with bytes of the file.
    """
    for signature, name in _DECODED:
        if data.startswith(signature):
            if name == "PNG" and data[12:16] == b"CgBI":
                raise ImageError(f"a PNG for iOS alone (CgBI); {_TO_PNG}")
            if name == "TIFF" and data[8:10] == b"CR":
                raise ImageError(f"a raw file of a camera; {_TO_PNG}")
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _box(data)
    for signature, name, advice in _OTHERS:
        if data.startswith(signature):
            raise ImageError(f"{name}; {advice}")
    if not data:
        raise ImageError("an empty file; upload it again")
    if data[128:132] == b"DICM":
        raise ImageError(f"DICOM; {_TO_TIFF}")
    if data[257:262] == b"ustar":
        raise ImageError(f"a tar archive; {_UNPACK}")
    if not data[:4096].strip(b"\0"):
        raise ImageError("only zeros at its beginning; upload it again")
    raise ImageError(_text(data))


def reader_of(name: str) -> type[ImageFile.ImageFile]:
    """Pillow's reader of a format that `format_of` names."""
    if name == "HEIC":
        _register_heic()
        factory = Image.OPEN["HEIF"][0]
        assert isinstance(factory, type) and issubclass(factory, ImageFile.ImageFile)
        return factory
    return READERS[name]


@functools.cache
def _register_heic() -> None:
    for name in _HEIC_PLUGINS:
        if importlib.util.find_spec(name):
            importlib.import_module(name).register_heif_opener()
            return
    raise ImageError(f"HEIC; {_TO_PNG}, or install pi-heif beside dstc to have it read")


def _box(data: bytes) -> str:
    """The format of a file in boxes of ISO 14496-12: AVIF, HEIC, or a video."""
    # The brands: one, a version, then those that the file is compatible with.
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, size - 3, 4)}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if data[8:11] == b"crx":
        raise ImageError(f"a raw file of a camera; {_TO_PNG}")
    if any(brand[:3] in (b"hei", b"hev") for brand in brands) or brands & {b"mif1", b"msf1"}:
        _register_heic()
        return "HEIC"
    raise ImageError("a video (MP4 or MOV); extract its frames")


def _text(data: bytes) -> str:
    start = data[:512].removeprefix(b"\xef\xbb\xbf")
    text = start.decode("latin-1").lstrip().lower()
    if text.startswith("<?xml") and "<svg" in text:
        return f"SVG; {_EXPORT}"
    for beginning, name, advice in _TEXTS:
        if text.startswith(beginning):
            return f"{name}; {advice}"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"text; {EXPECTED}"
    return f"of a format that is not known; {EXPECTED}: convert it to one of these"
