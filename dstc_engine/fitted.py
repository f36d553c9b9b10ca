"""Images of a request as an engine looks at them, and as a result shows them.

Fitting a photograph of 12 megapixels takes longer than a step of small networks. It needs no GPU
and no torch, so the job does it in the threads that fetch; an engine that gets images as they came
fits them itself.
"""

from __future__ import annotations

import dataclasses

from dstc_engine.image import fit, fit_mask, unpad
from dstc_engine.presets import Preset
from dstc_engine.request import ImageArray, TranslationRequest


def fitted(request: TranslationRequest, preset: Preset) -> TranslationRequest:
    """The same request with its images fitted to the preset's square; the result is the same.

    >>> small = fitted(request, get_preset("tiny64"))
    >>> small.content.shape, small.content_size
    ((64, 64, 3), (3000, 4000))
    """
    if request.content_size is not None:
        return request
    size, mode = preset.image_size, preset.fit
    style, mask = request.style, request.mask
    return dataclasses.replace(
        request,
        content=fit(request.content, size, mode),
        style=None if style is None else fit(style, size, mode),
        mask=None if mask is None else fit_mask(mask, size, mode),
        content_size=request.content.shape[:2],
        style_size=None if style is None else style.shape[:2],
    )


def shown_content(request: TranslationRequest, preset: Preset) -> ImageArray:
    """The content as a result shows it: fitted, without padding; (H, W, 3) uint8."""
    request = fitted(request, preset)
    return without_padding(request.content, request, preset)


def shown_style(request: TranslationRequest, preset: Preset) -> ImageArray | None:
    """The style likewise, None where there is none."""
    request = fitted(request, preset)
    if request.style is None or request.style_size is None or preset.fit != "pad":
        return request.style
    return unpad(request.style, *request.style_size)


def shown_mask(request: TranslationRequest, preset: Preset) -> ImageArray | None:
    """The mask over the content that is shown, (H, W) uint8; None where there is none."""
    request = fitted(request, preset)
    return None if request.mask is None else without_padding(request.mask, request, preset)


def without_padding(image: ImageArray, request: TranslationRequest, preset: Preset) -> ImageArray:
    """A square image over the content, without what fitting the content has padded."""
    if preset.fit != "pad":
        return image
    return unpad(image, *(request.content_size or request.content.shape[:2]))
