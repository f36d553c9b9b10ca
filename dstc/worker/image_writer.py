"""Makes files of finished images, and of labels that are carried over, and stores them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dstc.planning.settings import Settings
from dstc.store.run_folder import RunFolder
from dstc.worker.image_store import ImageStore, open_image_store
from dstc.worker.labels import carry, encode_label_image
from dstc.worker.row import Row
from dstc.worker.shard_task import ShardTask
from dstc_engine.presets import Preset
from dstc_engine.request import Translation

if TYPE_CHECKING:
    from dstc_engine.placement import Placement


@dataclass(frozen=True)
class ImageWriter:
    """Writes the images of a run under keys made from the ids of their rows.

    Attributes:
        run: whose folder. settings: of it. preset: those of the settings, resolved.
        fingerprint: over what decides an image besides its own row; written into each image, as is
            the name of the preset.
        store: takes the files.
    """

    run: RunFolder
    settings: Settings
    preset: Preset
    fingerprint: str
    store: ImageStore

    @classmethod
    def of(cls, task: ShardTask) -> ImageWriter:
        """The writer of a run."""
        settings = task.settings
        store = open_image_store(task.run, settings)
        return cls(task.run, settings, settings.resolved_preset, task.image_fingerprint, store)

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
        # Both bring torch or Pillow, which the driver does without.
        from dstc_engine.encoding import encode_image
        from dstc_engine.restore import restore_size

        texts = {
            "id": row.id,
            "seed": str(translation.seed),
            "preset": self.preset.name,
            "fingerprint": self.fingerprint,
        }
        if sample:
            texts["sample"] = str(sample)
        if retry:
            texts["retry"] = str(retry)
        image = translation.image
        assert image is not None
        if row.origin is not None and self._fitted(row, translation):
            image = restore_size(image, row.origin.content, row.origin.mask, self.preset.fit)
        data = encode_image(image, self.settings.format, self.settings.quality, texts)
        run = self.run
        name = run.retry_name(row.id, retry) if retry else run.sample_name(row.id, sample)
        return name, self._put(row, name, data)

    def carry(self, row: Row, translation: Translation) -> dict[str, Any]:
        """Fields of an `Outcome`: where the content lies in the image, and its labels there.

        Labels in an image are written to one of their own.

        Raises:
            Rejected: that image has another size than the content.
            Failed, OutputError: as `write`.
        """
        placement = self._placement(row, translation)
        if placement is None:
            return {}
        fields = {"placement": asdict(placement), **carry(row.labels, placement)}
        if row.labels is not None and row.labels.pixels is not None:
            name = self.run.mask_name(row.id)
            data = encode_label_image(row.labels.pixels, placement)
            fields |= {"result_mask": name, "result_mask_sha256": self._put(row, name, data)}
        return fields

    def _placement(self, row: Row, translation: Translation) -> Placement | None:
        from dstc_engine.placement import Placement

        fitted = self._fitted(row, translation)
        if fitted is None or row.origin is None:
            return fitted
        assert row.frame is not None
        return Placement.of(row.frame, self.preset.image_size, "whole")

    def _fitted(self, row: Row, translation: Translation) -> Placement | None:
        """Where the content lies in the engine's image; None where that has a size of its own."""
        from dstc_engine.placement import Placement

        assert translation.image is not None
        if row.frame is None:
            return None
        placement = Placement.of(row.frame, self.preset.image_size, self.preset.fit)
        expected = (placement.result_height, placement.result_width)
        return placement if translation.image.shape[:2] == expected else None

    def _put(self, row: Row, name: str, data: bytes) -> str:
        self.store.put(row.id, name, data)
        return hashlib.sha256(data).hexdigest()
