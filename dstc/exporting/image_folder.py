"""A folder for each class, as torchvision's `ImageFolder` reads it."""

from __future__ import annotations

from dstc.errors import SettingsError
from dstc.exporting.folder import Folder, safe_name
from dstc.exporting.items import Items
from dstc.exporting.short_names import ShortNames


def write_image_folder(items: Items, folder: Folder) -> int:
    """`[SPLIT/]CLASS/<id>.png`; with pairs, below `result/` and, the same names, `content/`.

    Folders at the beginning of an id that repeat SPLIT and CLASS are left out.

    Returns:
        The number of images.

    Raises:
        SettingsError: no column of labels, or one that labels objects.
    """
    if items.selection.label_column is None:
        raise SettingsError("--format imagefolder: --label-column not given; expected the classes")
    names = ShortNames(items)
    written = 0
    for item in items:
        if not isinstance(item.label, str):
            raise SettingsError(
                f"--label-column: row {item.row['id']!r} has a list of labels; expected one, since "
                "an image lies in one folder"
            )
        split = f"{item.split}/" if items.selection.split_column else ""
        name = f"{split}{safe_name(item.label)}/{names.of(item)}"
        if item.content is None:
            folder.write(f"{name}.{item.ending}", item.image)
        else:
            folder.write(f"result/{name}.{item.ending}", item.image)
            folder.write(f"content/{name}.png", item.content)
        written += 1
    return written
