"""A web server on loopback with answers that an honest one would not give.

Take the fixture with `from tests.hostile.hostile_host import hostile_host`.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

# 4 MB of zeros, in 4 kB.
_BOMB = gzip.compress(bytes(16 << 20))


class HostileHost:
    """Serves what a path asks for.

    Attributes:
        url: of the server. asked: paths so far. image: what `/a.png` is.
        redirects: where `/to/NAME` leads.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.image = b""
        self.redirects: dict[str, str] = {}
        self.is_over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.host = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Ends the server and what it is at."""
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    host: HostileHost

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what is tested


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        host = self.server.host
        host.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self._answer(302, b"", {"Location": host.redirects[path[4:]]})
        elif path == "/loop":
            self._answer(302, b"", {"Location": "/loop"})
        elif path == "/bomb":
            self._answer(200, _BOMB, {"Content-Encoding": "gzip"})
        elif path == "/endless":
            self._drip(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 16), 0)
        elif path == "/slow-body":
            self._drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.02)
        elif path == "/slow-headers":
            self._drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x", 0.02)
        elif path == "/page":
            self._answer(200, b"<html>the page says s3cr3t</html>")
        elif path == "/denied":
            self._answer(403, b"s3cr3t")
        elif path.endswith(".png"):
            self._answer(200, host.image)
        else:
            self._answer(404, b"s3cr3t")

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status, "s3cr3t")
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, head: bytes, drop: bytes, pause: float) -> None:
        self.close_connection = True
        self.wfile.write(head)
        while not self.server.host.is_over.is_set():
            self.wfile.write(drop)
            time.sleep(pause)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hostile_host() -> Iterator[HostileHost]:
    """A server for one test."""
    host = HostileHost()
    try:
        yield host
    finally:
        host.stop()
