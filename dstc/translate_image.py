"""`translate_image`: one image in this process, without Ray and without a run folder."""

from __future__ import annotations

import functools
import io
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dstc.engines.registry import find_engine
from dstc.engines.spec import Engine
from dstc.errors import JobError
from dstc.planning.settings import make_settings
from dstc.store import weights_bucket
from dstc.store.run_folder import RunFolder
from dstc.worker.shard_task import ShardTask
from dstc_engine.errors import ImageError
from dstc_engine.request import TranslationRequest

if TYPE_CHECKING:
    from PIL import Image

    from dstc_engine.decoding.read import Decoded
    from dstc_engine.request import ImageArray

# One at a time: networks are shared, and torch uses all cores for one as it is.
_lock = threading.Lock()


def translate_image(
    image: Image.Image | str | os.PathLike[str],
    *,
    prompt: str | None = None,
    style: Image.Image | str | os.PathLike[str] | None = None,
    source_prompt: str | None = None,
    mask: Image.Image | str | os.PathLike[str] | None = None,
    seed: int = 0,
    preset: str = "tiny64",
    set: Mapping[str, object] | None = None,
    device: str = "auto",
    engine: str = "guided",
) -> Image.Image:
    """Translates one image in this process; no Ray, no files. Networks are kept for the next call.

    Args:
        image: the content: an image of Pillow, of any mode and size, or the path of a file.
        prompt: the look in words. style: the look as an image; one of them, or both.
        source_prompt: what the content shows. mask: 255 is translated, 0 keeps the content.
        seed: 0 .. 2**63 - 1; the same seed gives the same image on the same machine.
        preset: its name; the networks of "tiny64" ship. set: fields of it to change.
        device: "auto", "cpu" or "cuda". engine: as `--engine`.

    Returns:
        RGB, of the preset's size: 64 x 64 pixels for "tiny64".

    Raises:
        UserError: bad image, mask, preset or argument, or weights that are missing.
        JobError: the engine made no image of it.

    Example:
        dstc.translate_image(Image.open("cat.png"), prompt="black line drawing").save("out.png")
    """
    from PIL import Image

    from dstc_engine.decoding.mask import read_mask
    from dstc_engine.decoding.read import read_image

    fields = tuple(sorted((name, str(value)) for name, value in (set or {}).items()))
    request = TranslationRequest(
        id="image",
        content=_pixels("image", image, read_image),
        seed=seed,
        style=None if style is None else _pixels("style", style, read_image),
        prompt=prompt,
        source_prompt=source_prompt,
        mask=None if mask is None else _pixels("mask", mask, read_mask),
    )
    with _lock:
        prepare, make_engine = _loaded(preset, fields, device, engine)
        one = make_engine(1)
        one.add(prepare(request))
        ended = None
        while ended is None and not one.is_finished:
            ended = next(iter(one.step()), None)
        result = ended.image if ended else None
    if result is None:
        found = f"{ended.reason}: {ended.error}" if ended else "the engine let go of it"
        raise JobError(f"no image was made: {found}; another seed may make one")
    return Image.fromarray(result)


@functools.lru_cache(maxsize=2)
def _loaded(
    preset: str, fields: tuple[tuple[str, str], ...], device: str, engine: str
) -> tuple[
    Callable[[TranslationRequest], TranslationRequest],
    Callable[[int], Engine],
]:
    settings = make_settings(
        manifest="image",
        output="image",
        preset=preset,
        set=dict(fields),
        device=device,
        engine=engine,
        slots=1,
    )
    spec = find_engine(engine)
    if not spec.uses_gpu:
        device = "cpu"
    elif device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    bucket = weights_bucket.bucket()
    task = ShardTask(settings, RunFolder(settings.output), "", "", device, weights=bucket)
    return spec.prepare(settings), spec.make(task)


def _pixels(
    name: str,
    image: Image.Image | str | os.PathLike[str],
    decode: Callable[[bytes, str], Decoded],
) -> ImageArray:
    """As a file of a manifest would be read: upright, in sRGB, laid on white."""
    if isinstance(image, str | os.PathLike):
        try:
            return decode(Path(image).read_bytes(), f"{name} {os.fspath(image)}").pixels
        except OSError as error:
            raise ImageError(f"{name} {os.fspath(image)}: {error.strerror}") from error
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise ImageError(
            f"{name}: found {type(image).__name__}; expected an image of Pillow, or a path"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    return decode(file.getvalue(), name).pixels
