"""How log lines of this program reach a terminal or a file: visible, one line a message."""

from __future__ import annotations

import logging
import sys
from typing import Any

from dstc.text import visible


class VisibleFormatter(logging.Formatter):
    """Shows what would steer a terminal as escapes; only tracebacks keep their line ends."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return visible(super().formatException(ei), keep="\n")


class _Stderr(logging.Handler):
    """Whatever `sys.stderr` is at the moment, as Python does for loggers without a handler."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def show_logs() -> None:
    """Sends warnings of this program to stderr, visible; may be called again."""
    for name in ("dstc", "dstc_engine"):
        log = logging.getLogger(name)
        if not any(isinstance(handler, _Stderr) for handler in log.handlers):
            handler = _Stderr(logging.WARNING)
            handler.setFormatter(VisibleFormatter())
            log.addHandler(handler)
