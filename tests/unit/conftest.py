"""Unit tests start no Ray and open no network connection; here both raise.

Only a server that a test starts itself, with a fixture named in `_OWN_SERVERS`, may be spoken to.
"""

from __future__ import annotations

import socket
from typing import Any, NoReturn

import pytest

_OWN_SERVERS = frozenset(
    ["closed_port", "file_host", "head_with_token", "mute_server", "report_server"]
)


@pytest.fixture(autouse=True)
def _no_ray_and_no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("unit tests start no Ray; tests/integration is the place")

    real_connect = socket.socket.connect
    has_server = not _OWN_SERVERS.isdisjoint(request.fixturenames)

    def connect(self: socket.socket, address: Any) -> None:
        is_own_server = has_server and address[0] == "127.0.0.1"
        if self.family != socket.AF_UNIX and not is_own_server:
            raise AssertionError(f"unit tests open no connection; this one would to {address}")
        real_connect(self, address)

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(socket.socket, "connect", connect)
