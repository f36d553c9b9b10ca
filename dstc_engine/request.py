"""What goes into the engine and what comes out of it.

Images cross this border as uint8 arrays (H, W, 3), RGB; inside the engine they are float CHW in
[-1, 1] (see `image.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dstc_engine.decoding.frame import Frame
from dstc_engine.errors import RequestError

ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class TranslationRequest:
    """One image to translate, and towards what.

    Attributes:
        id: names the row in results and errors.
        content: (H, W, 3) uint8, any size; fitted to the preset's size by `image.fit`.
        seed: every random number of this row comes from it, in 0 .. 2**63 - 1.
        style: (H, W, 3) uint8 for image guidance, or None.
        prompt: target text for text guidance, or None.
        source_prompt: what `content` shows, for the CLIP direction; None leaves that term out.
        mask: (H, W) uint8 of the content's size: 255 is translated, 0 keeps the content's pixels.
            One that is white all over is no mask, and becomes None.
        note: what was assumed while the images were read; the engine has no use for it.
        content_size, style_size: (height, width) before `fitted.fitted` brought the images to the
            preset's size; None: they are as they came.
        frame: how the content lies to its file. origin: this request as it was loaded, for what is
            made of the result; the engine has no use for either.

    Raises:
        RequestError: neither style nor prompt is given, or an array has another form.
    """

    id: str
    content: ImageArray
    seed: int
    style: ImageArray | None = None
    prompt: str | None = None
    source_prompt: str | None = None
    mask: ImageArray | None = None
    note: str | None = None
    content_size: tuple[int, int] | None = None
    style_size: tuple[int, int] | None = None
    frame: Frame | None = None
    origin: TranslationRequest | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None and not self.prompt.strip():
            # An empty text is no target; embedded, it would still pull somewhere.
            object.__setattr__(self, "prompt", None)
        if self.style is None and self.prompt is None:
            raise RequestError(
                f"row {self.id!r}: style and prompt are both empty; give one of them, or both"
            )
        for name, image in (("content", self.content), ("style", self.style)):
            if image is not None and (
                image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3
            ):
                raise RequestError(
                    f"row {self.id!r}: {name} is {image.dtype} {image.shape}; "
                    "expected uint8 (H, W, 3)"
                )
        if self.mask is not None and self.mask.shape != self.content.shape[:2]:
            raise RequestError(
                f"row {self.id!r}: mask is {self.mask.shape}; expected the content's "
                f"{self.content.shape[:2]}"
            )
        # One that fitting left white had something black before: it stays the mask it was.
        if self.content_size is None and self.mask is not None and (self.mask == 255).all():
            object.__setattr__(self, "mask", None)
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"row {self.id!r}: seed is {self.seed}; expected 0 .. 2**63 - 1")


@dataclass(frozen=True)
class StepLosses:
    """The losses of one guided step.

    Attributes:
        index: respaced step index, first index .. 0.
        phase: "resample" while the first index is repeated, else "sample".
        losses: unweighted values by the names in `losses.LOSS_NAMES`; NaN where a loss was not
            computed (nobody needed it, or its gate was closed).
    """

    index: int
    phase: str
    losses: dict[str, float]


class FinishedOnAccess:
    """A field of a dataclass: an image, or what makes it when it is first asked for.

    An engine leaves the last of its work to whoever takes the image, who has the time: in the job
    a thread that writes, while the engine steps on.
    """

    @overload
    def __get__(self, translation: None, owner: type) -> FinishedOnAccess: ...
    @overload
    def __get__(self, translation: object, owner: type) -> ImageArray | None: ...
    def __get__(self, translation: Any, owner: type) -> Any:
        if translation is None:
            raise AttributeError("there is no image without a translation")  # nor a default
        found = vars(translation)["image"]
        if callable(found):
            found = vars(translation)["image"] = found()
        return found

    def __set__(
        self, translation: object, image: ImageArray | Callable[[], ImageArray] | None
    ) -> None:
        vars(translation)["image"] = image


@dataclass(frozen=True, eq=False)
class Translation:
    """The end of one request.

    Attributes:
        id, seed: of the request.
        status: "done", or "failed" when the row may be tried again.
        image: (H, W, 3) uint8 at the preset's size when done, else None. Where an engine gives a
            function instead, the first who reads it calls that, and pays for it.
        reason: short and countable when failed ("non_finite", "out_of_memory"), else None.
        error: the full text when failed, else None.
        steps: taken, those before restarts and those without guidance included.
        restarts: times the chain was started again by the range loss.
        seconds: from entering a slot to leaving it.
        slots: of the engine that made it; 0 when none did.
        losses: one entry for each guided step of the last chain, in order.
        made_by: "guided" or "student"; empty where the engine does not say.
        distances: of a student's image, by the names of `student.distances.DISTANCES`.
        failed_gates: of these, the ones above the student's limits.
    """

    id: str
    seed: int
    status: str
    image: FinishedOnAccess = FinishedOnAccess()
    reason: str | None = None
    error: str | None = None
    steps: int = 0
    restarts: int = 0
    seconds: float = 0.0
    slots: int = 0
    losses: list[StepLosses] = field(default_factory=list)
    made_by: str = ""
    distances: dict[str, float] = field(default_factory=dict)
    failed_gates: tuple[str, ...] = ()
