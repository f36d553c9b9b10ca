"""How the pixels of a decoded image lie to those of its file: turned upright, perhaps halved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """The sizes of an image file, and what decoding did to them.

    Attributes:
        stored_width, stored_height: pixels as the file stores them.
        orientation: of EXIF, 1 .. 8; decoding turned the image upright by it.
        halving: 2 where the decoded image has half the pixels each way, rounded up; else 1.

    Example:
        >>> Frame(4000, 3000, orientation=6).size
        (3000, 4000)
    """

    stored_width: int
    stored_height: int
    orientation: int = 1
    halving: int = 1

    @property
    def is_sideways(self) -> bool:
        """Whether width and height change places."""
        return 5 <= self.orientation <= 8

    @property
    def flips(self) -> tuple[bool, bool]:
        """Whether x runs against the stored axis that it lies along, and whether y does."""
        return self.orientation in (2, 3, 6, 7), self.orientation in (3, 4, 7, 8)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright, before any halving."""
        stored = (self.stored_width, self.stored_height)
        return stored[::-1] if self.is_sideways else stored

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Width and height of the decoded image."""
        width, height = self.size
        return -(-width // self.halving), -(-height // self.halving)

    @property
    def shift(self) -> tuple[float, float]:
        """Decoded pixels by which x / halving and y / halving are short of their place.

        The last pixel of an odd row holds half as much as others. Flipped, it comes first.
        """
        x, y = (
            part - whole / self.halving if is_flipped else 0.0
            for whole, part, is_flipped in zip(
                self.size, self.decoded_size, self.flips, strict=True
            )
        )
        return x, y
