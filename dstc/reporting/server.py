"""`dstc report --serve`: the page of a run on this machine, made anew each time it is asked for.

Nothing is written, so it shows runs in buckets that may only be read, and runs that are running.
"""

from __future__ import annotations

import html
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dstc.errors import SettingsError
from dstc.text import describe
from dstc_engine.errors import DstcError

HOST = "127.0.0.1"


class ReportServer(ThreadingHTTPServer):
    """Answers `GET /` with a page, and nothing else.

    Threads, since browsers hold connections open that they may never use.

    Args:
        make: makes the page. port: to listen on, of 127.0.0.1 alone; 0 takes any free one.

    Raises:
        SettingsError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, make: Callable[[], bytes], port: int) -> None:
        self._make = make
        self._one_at_a_time = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"--port: found {port}, which cannot be listened on ({error}); expected a free "
                "port, or 0 for any"
            ) from error

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """URL of the page."""
        return f"http://{HOST}:{self.port}/"

    def page(self) -> tuple[HTTPStatus, bytes]:
        """The page as it is now, or one that says why there is none."""
        try:
            with self._one_at_a_time:  # a page of a large run takes seconds and some memory
                return HTTPStatus.OK, self._make()
        except DstcError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, _sorry(str(error))
        except Exception as error:  # the next reload may find it mended
            return HTTPStatus.INTERNAL_SERVER_ERROR, _sorry(describe(error))

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores browsers that hang up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    # A connection that is opened and never used ends.
    timeout = 30

    def do_GET(self) -> None:
        own = {f"{name}:{self.server.port}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in own:
            # A page from elsewhere whose name was made to point here could read the run.
            self._answer(HTTPStatus.FORBIDDEN, b"expected this machine's own address\n", "plain")
        elif self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, b"the page is at /\n", "plain")
        else:
            self._answer(*self.server.page(), "html")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keeps the terminal for the URL."""


def _sorry(text: str) -> bytes:
    page = f"<!doctype html><title>no report</title><p>There is no report now: {html.escape(text)}"
    return page.encode(errors="replace")
