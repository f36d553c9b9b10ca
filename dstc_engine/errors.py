"""What can go wrong, as a tree. `UserError` is the caller's to mend; its message names the place.

DstcError
└── UserError            what was asked for cannot be done as asked (also a ValueError)
    ├── PresetError      unknown preset, unknown field, or a value out of its range
    ├── WeightsError     weights missing, of another layout, or not those the registry names
    ├── ImageError     bytes that are no image we can read
    │   └── MaskError    an image that is no mask
    ├── DeviceMemoryError  a device that cannot hold even one slot
    └── RequestError     a request without style and prompt, or with images of a wrong form
"""


class DstcError(Exception):
    """Base of every error this project raises on purpose."""


class UserError(DstcError, ValueError):
    """What was asked for cannot be done; the message says where, what, and what was expected."""


class PresetError(UserError):
    """An unknown preset, an unknown preset field, or a value out of its range."""


class WeightsError(UserError):
    """Weights that are missing, have another layout, or differ from what the registry names."""


class ImageError(UserError):
    """Bytes that are not an image we can read."""


class MaskError(ImageError):
    """An image that says of no pixel clearly whether it is to be translated."""


class DeviceMemoryError(UserError):
    """A device whose memory does not hold one slot."""


class RequestError(UserError):
    """A translation request that cannot be carried out: no target, or images of a wrong form."""
