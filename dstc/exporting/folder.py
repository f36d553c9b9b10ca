"""The folder that a data set is written to, local or remote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from dstc.errors import RunFolderError
from dstc.store import retries, storage, urls
from dstc.text import redact

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]')
_WRITERS, _AHEAD = 8, 32
MAX_NAME = 240


class Folder:
    """Writes files below an empty or new folder, some at once.

    Example:
        with Folder("s3://bucket/emoji") as folder:
            folder.write("train/cat/1.png", data)

    Raises:
        RunFolderError: the folder holds something. OutputError: it cannot be written.
    """

    def __init__(self, uri: str) -> None:
        urls.refuse_credentials(uri, "TO")
        self.uri = urls.folder(uri)
        if there := storage.list_names(self.uri):
            raise RunFolderError(
                f"{redact(self.uri)}: found {', '.join(there[:3])}; expected an empty or new folder"
            )
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="export")
        self._pending: list[Future[None]] = []

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, now or soon; what goes wrong is told at a later call, or at the end."""
        while len(self._pending) >= _AHEAD:
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(self._write, name, data))

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON document."""
        self.write(name, json.dumps(value, ensure_ascii=False).encode() + b"\n")

    def write_json_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes records, one a line."""
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        self.write(name, "".join(f"{line}\n" for line in lines).encode())

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                for pending in self._pending:
                    pending.result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _write(self, name: str, data: bytes) -> None:
        uri = urls.join(self.uri, name)
        with storage.writing_output(uri):
            storage.write_bytes(uri, data, retries.STEADY)


def safe_name(text: str) -> str:
    """A text as the name of a file or folder; `urllib.parse.unquote` leads back.

    Example:
        >>> safe_name("cats & dogs"), safe_name("and/or"), safe_name("..")
        ('cats & dogs', 'and%2For', '%2E.')
    """
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text)
    return f"%2E{name[1:]}" if name.startswith(".") else name
