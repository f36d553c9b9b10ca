"""A JSON file of a run, which may be missing, partial or edited by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dstc.errors import StorageError
from dstc.store import storage
from dstc.text import describe, redact, shown

MISSING = "is not there"


@dataclass(frozen=True)
class Record:
    """A JSON file of the run: what it holds, and what is wrong with it."""

    name: str
    values: Mapping[str, Any]
    problem: str | None = None

    @cached_property
    def whole(self) -> str:
        """All of it as text."""
        return redact(json.dumps(self.values, indent=2, ensure_ascii=False))

    def part(self, key: str) -> Mapping[str, Any]:
        """An object inside it; empty when missing."""
        value = self.values.get(key)
        return value if isinstance(value, dict) else {}

    def text(self, key: str) -> str:
        """A value as text; empty when missing."""
        return shown(self.values[key]) if key in self.values else ""


def read_record(uri: str, name: str) -> Record:
    """Reads a JSON file; what is wrong with it is part of the record.

    Raises:
        StorageError: storage cannot be reached, or refuses.
    """
    try:
        values = json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, NotADirectoryError):
        return Record(name, {}, MISSING)
    except ValueError as error:
        if isinstance(error, StorageError):
            raise
        return Record(name, {}, f"is not readable JSON: {error}")
    except Exception as error:  # drivers raise their own types
        raise StorageError(f"{redact(uri)}: cannot be read: {describe(error)}") from error
    if not isinstance(values, dict):
        return Record(name, {}, f"holds {type(values).__name__}; expected an object")
    return Record(name, values)
