"""progress.json of a run that is still at its pilot or its student: for `dstc status`."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time

from dstc.store import storage
from dstc.store.pilot_record import Stage
from dstc.store.run_folder import RunFolder
from dstc.text import redact

log = logging.getLogger(__name__)

_EVERY_S = 15.0


class StageNote:
    """Says every few seconds, while its block runs, that a driver is at work, and at what.

    Args:
        run: whose folder. stage: that it begins with.
    """

    def __init__(self, run: RunFolder, stage: Stage) -> None:
        self._run, self._stage = run, stage
        self._started = time.time()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="stage-note", daemon=True)

    def __enter__(self) -> StageNote:
        self._write("running")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._end.set()
        self._thread.join(10)  # a storage that stalls may not hold a driver that was told to end
        if kind is None:
            self._write("running")  # the next stage's monitor takes over
        else:
            self._write("stopped" if issubclass(kind, KeyboardInterrupt) else "broken")

    def begin(self, stage: Stage) -> None:
        """Says that another stage has begun."""
        self._stage = stage
        self._write("running")

    def _keep(self) -> None:
        while not self._end.wait(_EVERY_S):
            self._write("running")

    def _write(self, state: str) -> None:
        record = {
            "state": state,
            "stage": self._stage,
            "started": round(self._started, 3),
            "updated": round(time.time(), 3),
            "driver": {"host": socket.gethostname(), "pid": os.getpid()},
        }
        try:
            storage.write_bytes(self._run.progress, json.dumps(record, indent=2).encode() + b"\n")
        except OSError as error:
            log.warning("progress not written: %s", redact(str(error)))
