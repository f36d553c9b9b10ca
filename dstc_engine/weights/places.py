"""The folders in which weights lie."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

SHIPPED = Path(__file__).parent / "tiny"
DISTRIBUTION = "dstc"
IN_DISTRIBUTION = "dstc_engine/weights/tiny"


def weights_folder() -> Path:
    """Where published weights are looked for: the folder that DSTC_WEIGHTS names.

    Where that is a URL, weights come from there into a folder of this machine, which
    DSTC_WEIGHTS_CACHE names. Without either it is ~/.cache/dstc/weights.
    """
    named = os.environ.get("DSTC_WEIGHTS") or ""
    if "://" in named:
        named = os.environ.get("DSTC_WEIGHTS_CACHE") or ""
    return Path(named or Path.home() / ".cache" / "dstc" / "weights")


def local_copy(url: str) -> Path:
    """Where the copy of a description that lies behind a URL belongs; its file is beside it."""
    folder = hashlib.sha256(url.encode()).hexdigest()[:16]
    return weights_folder() / "described" / folder / url.rsplit("/", 1)[1]


def shipped_folders() -> Iterator[Path]:
    """Folders in which shipped weights may lie, the first to be looked at first."""
    # Only when it is named: the default folder may hold files of other programs.
    if os.environ.get("DSTC_WEIGHTS"):
        yield weights_folder()
    yield SHIPPED
    # All of this name: an egg-info folder in the working directory hides the installed one.
    for distribution in importlib.metadata.distributions(name=DISTRIBUTION):
        yield Path(str(distribution.locate_file(IN_DISTRIBUTION)))
        source = _editable_source(distribution)
        if source is not None:
            yield source / IN_DISTRIBUTION


def _editable_source(distribution: importlib.metadata.Distribution) -> Path | None:
    """The checkout behind an editable install, whose own folder holds no package."""
    url = urlsplit(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
    return Path(url2pathname(url.path)) if url.scheme == "file" else None
