"""Faults of a run folder, as `dstc verify` finds them."""

from __future__ import annotations

from dataclasses import dataclass

CHANGED_MANIFEST = "changed_manifest"
MISSING_PART = "missing_part"
DAMAGED_PART = "damaged_part"
FOREIGN_PART = "foreign_part"
LOST_ROW = "lost_row"
DOUBLED_ID = "doubled_id"
FOREIGN_ROW = "foreign_row"
CHANGED_ROW = "changed_row"
BAD_STATUS = "bad_status"
MISSING_IMAGE = "missing_image"
CHANGED_IMAGE = "changed_image"
FOREIGN_CONTAINER = "foreign_container"


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was written.

    Attributes:
        kind: one of the names above.
        place: the file, relative to the run folder; of a manifest, its name there.
        what: what was found, and what was expected; names the row where it is about one.
    """

    kind: str
    place: str
    what: str
