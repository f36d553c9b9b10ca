"""Unit tests start no Ray and open no network connection; here both raise."""

from __future__ import annotations

import socket
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True)
def _no_ray_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("unit tests start no Ray; tests/integration is the place")

    real_connect = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"unit tests open no connection; this one would to {address}")
        real_connect(self, address)

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(socket.socket, "connect", connect)
