"""pilot.json: which stage a run with `--pilot` is in, and of which arguments it was begun."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dstc.errors import RunFolderError
from dstc.store import retries, storage
from dstc.store.run_folder import RunFolder
from dstc.text import redact

Stage = Literal["pilot", "distil", "translate"]
STAGES: tuple[Stage, ...] = ("pilot", "distil", "translate")
_FORMAT = 1


@dataclass(frozen=True)
class PilotRecord:
    """What pilot.json holds.

    Attributes:
        stage: "pilot": its rows are guided; "distil": a student learns from them; "translate": all
            rows are translated by it.
        rows: of the pilot. all_rows: of the manifest.
        looks: {style, prompt, rows, pilot} of each look that the pilot has.
        identity: of the run, as far as it is known before there is a student.
        student_sha256: of the student's description, from the last stage on.
    """

    stage: Stage
    rows: int
    all_rows: int
    looks: Sequence[Mapping[str, Any]]
    identity: Mapping[str, Any]
    student_sha256: str | None = None


def read_pilot_record(run: RunFolder) -> PilotRecord | None:
    """What a run folder holds of a pilot; None where it holds nothing.

    Raises:
        RunFolderError: the file is none of this program, or of this version.
        OSError: storage does not answer.
    """
    try:
        fields = json.loads(storage.read_bytes(run.pilot_record))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise _unreadable(run, str(error)) from error
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise _unreadable(run, f"expected format {_FORMAT}")
    try:
        record = PilotRecord(**fields)
    except TypeError as error:
        raise _unreadable(run, str(error)) from error
    if record.stage not in STAGES:
        raise _unreadable(run, f"stage is {record.stage!r}")
    return record


def write_pilot_record(run: RunFolder, record: PilotRecord) -> None:
    """Writes pilot.json anew.

    Raises:
        OSError: storage refuses or does not answer.
    """
    text = json.dumps({"format": _FORMAT, **dataclasses.asdict(record)}, indent=2)
    storage.write_bytes(run.pilot_record, text.encode() + b"\n", retries.STEADY)


def _unreadable(run: RunFolder, why: str) -> RunFolderError:
    return RunFolderError(f"{redact(run.pilot_record)}: not a pilot.json of this program ({why})")
