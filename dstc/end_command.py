"""How a command ends: one line on stderr, and its exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

from dstc.text import visible

# 128 and the signal's number: SIGINT, SIGTERM.
BROKEN, UNUSABLE, STOPPED, TERMINATED = 1, 2, 130, 143


def end(message: str, code: int) -> NoReturn:
    """Says why, and raises SystemExit with that code."""
    print(visible(message), file=sys.stderr)
    raise SystemExit(code)
