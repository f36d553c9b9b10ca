"""A note beside the images of a run: what the folder is, and what makes a data set of it."""

from __future__ import annotations

import logging

from dstc.store import storage, urls
from dstc.store.run_folder import RunFolder
from dstc.text import describe

log = logging.getLogger(__name__)

_NAME = "README.md"
_TEXT = """\
# Images of a run of `dstc translate`

This is no class folder: its subfolders (`00` to `ff`) are parts of a hash of the row's id, and mean
nothing. A loader that takes folders for classes, such as torchvision's `ImageFolder`, would learn
to tell hashes apart. Which row an image belongs to, and its prompt and labels, are in
`../results/*.parquet`, column `image`.

`dstc export` makes a data set of the run:

    dstc export RUN TO --format imagefolder --label-column label

Other formats: webdataset, hf (Hugging Face), coco, folder (original names).
"""


def write_images_note(run: RunFolder) -> None:
    """Writes the note where there is none; no image is ever named so.

    Where it cannot be written, a run goes on without: its images will tell.
    """
    uri = urls.join(run.uri, "images", _NAME)
    try:
        if not storage.exists(uri):
            storage.write_bytes(uri, _TEXT.encode())
    except OSError as error:
        log.warning("images/%s: %s", _NAME, describe(error))
