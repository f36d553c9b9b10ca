"""A note beside the images of a run: what the folder is, and what makes a data set of it."""

from __future__ import annotations

import logging

from dstc.store import storage, urls
from dstc.store.run_folder import CONTAINERS, RunFolder
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


_OF_CONTAINERS = """\
# Images of a run of `dstc translate --store {store}`

`00007-<sum>.{ending}` holds all images of shard 7, whose rows are those of
`../results/part-00007.parquet`. Column `image` there names an image by its bytes,
`images/00007-<sum>.{ending}#bytes=FIRST-LAST`, as HTTP's Range header does. Run `dstc verify`
before you read these files without the results: it names any that no result names.

`dstc export RUN TO` makes a data set in another format: imagefolder, coco, folder, webdataset, hf.
"""


def write_images_note(run: RunFolder, store: str = "files") -> None:
    """Writes the note where there is none; no image is ever named so.

    Where it cannot be written, a run goes on without: its images will tell.

    Args:
        run: whose images. store: of the run, as `--store` has it.
    """
    uri = urls.join(run.uri, "images", _NAME)
    try:
        if not storage.exists(uri):
            storage.write_bytes(uri, _text(store).encode())
    except OSError as error:
        log.warning("images/%s: %s", _NAME, describe(error))


def _text(store: str) -> str:
    if store == "files":
        return _TEXT
    return _OF_CONTAINERS.format(store=store, ending=CONTAINERS[store])
