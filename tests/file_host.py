"""A web server on loopback that hands out files, and fails as a test tells it to.

Take the fixture with `from tests.file_host import file_host`. Unit tests reach no other address.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Asked:
    """A request as it came. `range` and `if_range` are the headers of these names."""

    path: str
    range: str | None
    if_range: str | None


@dataclass
class Served:
    """One file, and how it is served; a test changes what it likes.

    Attributes:
        data: the bytes. content_type: of them. headers: more of them.
        etag: None sends none. has_ranges: answers 206, and heeds_if_range before it does.
        tells_size: sends Content-Length.
        cuts: for each answer to come, after how many bytes its connection is reset.
        statuses: for each answer to come, a status that takes its place.
        redirect: path that is answered with 302 instead of data.
    """

    data: bytes = b""
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    has_ranges: bool = True
    heeds_if_range: bool = True
    tells_size: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirect: str | None = None


class FileHost:
    """Serves `files` by their path, query left out.

    Attributes:
        url: of the server. files: what it serves. asked: requests so far.
        gate: while it is clear, answers wait in the midst of their body.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.gate = threading.Event()
        self.gate.set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.host = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def serve(self, path: str, data: bytes = b"", **how: Any) -> str:
        """Serves a file, with an ETag made of its bytes unless another is given; its URL."""
        how.setdefault("etag", f'"{hashlib.md5(data).hexdigest()}"')
        self.files[path] = Served(data, **how)
        return self.url + path

    def stop(self) -> None:
        """Ends the server and what it is at."""
        self.gate.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    host: FileHost

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        host = self.server.host
        path = self.path.partition("?")[0]
        asked = Asked(self.path, self.headers.get("Range"), self.headers.get("If-Range"))
        host.asked.append(asked)
        file = host.files.get(path)
        if file is None:
            return self._end(404)
        if file.statuses:
            return self._end(file.statuses.pop(0))
        if file.redirect is not None:
            return self._end(302, {**file.headers, "Location": file.redirect})
        self._send(file, asked)

    def _send(self, file: Served, asked: Asked) -> None:
        data, start, status = file.data, 0, 200
        headers = {"Content-Type": file.content_type, **file.headers}
        if file.etag:
            headers["ETag"] = file.etag
        ranged = re.fullmatch(r"bytes=(\d+)-", asked.range or "")
        is_same = not file.heeds_if_range or asked.if_range in (None, file.etag)
        if ranged and file.has_ranges and is_same:
            start, status = int(ranged[1]), 206
            if start >= len(data):
                return self._end(416, {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        self.send_response(status)
        if file.tells_size:
            headers["Content-Length"] = str(len(body))
        else:
            self.close_connection = True
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        cut = file.cuts.pop(0) if file.cuts else None
        half = len(body) // 2 if cut is None else min(cut, len(body))
        self.wfile.write(body[:half])
        self.wfile.flush()
        self.server.host.gate.wait()
        if cut is None:
            self.wfile.write(body[half:])
        else:
            self.close_connection = True

    def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[FileHost]:
    """A server for the block."""
    host = FileHost()
    try:
        yield host
    finally:
        host.stop()


@pytest.fixture
def file_host() -> Iterator[FileHost]:
    """A server for one test."""
    with serving() as host:
        yield host
