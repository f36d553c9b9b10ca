"""Encodes finished images and writes them to storage: the room for other formats than PNG."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from dstc.errors import OutputError
from dstc.store import retries, storage, urls
from dstc.store.run_folder import RunFolder
from dstc.text import describe
from dstc.worker.row import Failed, Row
from dstc_engine.request import Translation


@dataclass(frozen=True)
class ImageWriter:
    """Writes the images of a run under keys made from the ids of their rows.

    Attributes:
        run: whose folder. preset: its name. fingerprint: over what decides an image besides its
            own row; both are written into each PNG.
    """

    run: RunFolder
    preset: str
    fingerprint: str

    def write(
        self, row: Row, sample: int, translation: Translation, retry: int = 0
    ) -> tuple[str, str]:
        """Writes the image of a sample; its path in the run folder, and its sha256.

        Args:
            row: whose. sample: its number, 0 for the first. translation: with an image.
            retry: of a flagged row, which try with another seed; 0 for none.

        Raises:
            Failed: this one file cannot be written.
            OutputError: storage takes no results any more.
        """
        from dstc_engine.image import encode_png  # brings torch, which the driver does without

        texts = {
            "id": row.id,
            "seed": str(translation.seed),
            "preset": self.preset,
            "fingerprint": self.fingerprint,
        }
        if sample:
            texts["sample"] = str(sample)
        if retry:
            texts["retry"] = str(retry)
        assert translation.image is not None
        data = encode_png(translation.image, texts)
        run = self.run
        name = run.retry_name(row.id, retry) if retry else run.sample_name(row.id, sample)
        uri = urls.join(run.uri, name)
        try:
            with storage.writing_output(uri):
                storage.write_bytes(uri, data, retries.STEADY)
        except OutputError as error:
            if not storage.is_about_one_file(error.__cause__):
                raise
            raise Failed("write_error", f"{name}: {describe(error.__cause__)}") from error
        return name, hashlib.sha256(data).hexdigest()
