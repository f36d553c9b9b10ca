"""The finished run that tests of exports share."""

from __future__ import annotations

from tests.finished_run import finished, make_run

__all__ = ["finished", "make_run"]
