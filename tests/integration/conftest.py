"""The Ray session that tests share."""

from __future__ import annotations

from tests.ray_session import no_ray, ray_ends, ray_session

__all__ = ["no_ray", "ray_ends", "ray_session"]
