"""The Ray session that tests share."""

from __future__ import annotations

from tests.ray_session import ray_session

__all__ = ["ray_session"]
