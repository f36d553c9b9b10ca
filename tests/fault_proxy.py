"""A proxy between a client and an S3 server that loses, delays and refuses what a test tells it to.

Requests and answers pass as the bytes they are, Host included, so signatures stay valid. Only
`Expect: 100-continue`, which is not signed, is answered here. One request at a time on each
connection, bodies held in memory: made for small objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


@dataclass(frozen=True)
class Request:
    """What the proxy saw of one request.

    Attributes:
        method: of HTTP. path: with the query, as sent.
        status: of the answer; 0 while there is none, and where the connection was cut instead.
        sent, received: bytes of the two bodies.
    """

    method: str
    path: str
    status: int = 0
    sent: int = 0
    received: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class _Mode:
    name: str
    share: float = 0.0
    seconds: float = 0.0
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True)
class _Message:
    """A request or an answer: its head with the empty line, its body with chunk sizes."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)


class _Cut(Exception):
    """The connection to the client is to be reset."""


class FaultProxy:
    """Listens on a free port of loopback, in a thread of its own; a context manager.

    Args:
        port: of the server on loopback that it leads to.
        seed: of the draws which requests a share falls on.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self._upstream = port
        self._draws = random.Random(seed)
        self._lock = threading.Lock()
        self._seen: list[Request] = []
        self._in_flight = 0
        self._most_in_flight = 0
        self._held: list[Request] = []
        self._refused = 0
        self._mode = _Mode("pass_through")
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self.port = 0

    @property
    def endpoint(self) -> str:
        """URL to give to clients."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- what befalls requests that come from now on ---------------------------------------------

    def pass_through(self) -> None:
        """Nothing. Requests that wait, stalled or held, go on."""
        self._set(_Mode("pass_through"))

    def refuse(self) -> None:
        """Connections are reset as they come, those that are open with their next request."""
        self._set(_Mode("refuse"))

    def stall(self, seconds: float) -> None:
        """Requests are read, and passed on only so much later, or with the next change."""
        self._set(_Mode("stall", seconds=seconds))

    def drop(self, share: float) -> None:
        """Connections of a share of requests are reset in the midst of a body.

        Half of them while the request is sent, so the server has seen none of it; half while the
        answer comes, so the server has done what the client cannot know.
        """
        self._set(_Mode("drop", share=share))

    def throttle(self, share: float = 1.0) -> None:
        """A share of requests is answered 503 SlowDown, and not passed on."""
        self._set(_Mode("throttle", share=share))

    def hold(self, pattern: str) -> None:
        """Requests wait whose `METHOD /path?query` matches, until `release` or another change.

        One whose client has gone by then is not passed on.
        """
        self._set(_Mode("hold", pattern=re.compile(pattern)))

    def release(self) -> None:
        """Lets held requests go on, and holds no more."""
        self.pass_through()

    # -- what was seen ---------------------------------------------------------------------------

    @property
    def held(self) -> list[Request]:
        """Requests held since the last `hold`, whether or not they still wait."""
        with self._lock:
            return list(self._held)

    def wait_held(self, seconds: float = 120) -> list[Request]:
        """Waits until something is held.

        Raises:
            TimeoutError: nothing was.
        """
        end = time.monotonic() + seconds
        while not self.held:
            if time.monotonic() > end:
                raise TimeoutError(f"no request matched within {seconds} s")
            time.sleep(0.02)
        return self.held

    @property
    def requests(self) -> list[Request]:
        """All requests since `forget`, in the order of their ends."""
        with self._lock:
            return list(self._seen)

    @property
    def refused(self) -> int:
        """Connections that were reset as they came, since `forget`."""
        with self._lock:
            return self._refused

    @property
    def most_at_once(self) -> int:
        """The largest number of requests that were under way together."""
        with self._lock:
            return self._most_in_flight

    def count(self, pattern: str) -> int:
        """Requests whose `METHOD /path?query` matches."""
        return sum(1 for request in self.requests if re.search(pattern, str(request)))

    def counts(
        self, key: Callable[[Request], str] = lambda request: request.method
    ) -> Counter[str]:
        """Requests by what `key` makes of them."""
        return Counter(key(request) for request in self.requests)

    def forget(self) -> None:
        """Starts counting anew."""
        with self._lock:
            self._seen.clear()
            self._refused = 0
            self._most_in_flight = self._in_flight

    # -- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _set(self, mode: _Mode) -> None:
        def change() -> None:
            with self._lock:
                self._mode = mode
                if mode.name == "hold":
                    self._held.clear()
            self._changed.set()
            self._changed = asyncio.Event()

        async def run() -> None:
            change()

        # Waited for, so that no request of the caller's next line meets the old mode.
        asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._mode.name == "refuse":
                with self._lock:
                    self._refused += 1
                raise _Cut
            while (message := await _read_request(reader, writer)) is not None:
                if not await self._answer(message, reader, writer):
                    break
            writer.close()
        except (_Cut, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(
        self, message: _Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answers one request; whether the connection may bring another."""
        method, path, _ = message.first_line
        request = Request(method, path, sent=len(message.body))
        with self._counted():
            try:
                mode = await self._wait(request, reader)
                is_hit = mode.share > 0 and self._draws.random() < mode.share
                if mode.name == "refuse":
                    raise _Cut
                if mode.name == "throttle" and is_hit:
                    answer = _error_503(method)
                else:
                    cuts_request = mode.name == "drop" and is_hit and self._draws.random() < 0.5
                    if cuts_request:
                        await self._send_half(message)
                        raise _Cut
                    answer = await self._ask(message, method)
                    if mode.name == "drop" and is_hit:
                        whole = answer.head + answer.body
                        writer.write(whole[: max(len(whole) // 2, len(whole) - 40)])
                        await writer.drain()
                        raise _Cut
                status = int(answer.first_line[1])
                request = replace(request, status=status, received=len(answer.body))
                writer.write(answer.head + answer.body)
                await writer.drain()
            finally:
                with self._lock:
                    self._seen.append(request)
        return _header(answer.head, b"connection") != b"close"

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    async def _wait(self, request: Request, reader: asyncio.StreamReader) -> _Mode:
        """Waits as the mode says; the mode that holds afterwards."""
        end = None
        while True:
            mode, changed = self._mode, self._changed
            if mode.name == "stall":
                end = end or self._loop.time() + mode.seconds
                left: float | None = end - self._loop.time()
            elif mode.pattern is not None and mode.pattern.search(str(request)):
                with self._lock:
                    if request not in self._held:
                        self._held.append(request)
                left = None
            else:
                break
            if left is not None and left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left)
        if reader.at_eof() or reader.exception() is not None:
            raise _Cut  # the client died or gave up; its request dies with it
        return self._mode

    async def _ask(self, message: _Message, method: str) -> _Message:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream, limit=1 << 20)
        try:
            writer.write(message.head + message.body)
            await writer.drain()
            while True:
                answer = await _read_answer(reader, method)
                if answer.first_line[1] != "100":
                    return answer
        finally:
            writer.transport.abort()

    async def _send_half(self, message: _Message) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        writer.write(message.head + message.body[: len(message.body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)  # the server is to see the first half before the reset
        writer.transport.abort()


# --- HTTP -----------------------------------------------------------------------------------------


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> _Message | None:
    head = await _read_head(reader)
    if head is None:
        return None
    if (_header(head, b"expect") or b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        head = re.sub(rb"(?im)^expect:[^\n]*\n", b"", head)
    return _Message(head, await _read_body(reader, head, has_body=False))


async def _read_answer(reader: asyncio.StreamReader, method: str) -> _Message:
    head = await _read_head(reader)
    if head is None:
        raise ConnectionResetError("the server closed without an answer")
    status = head.split(b" ", 2)[1]
    if method == "HEAD" or status in (b"100", b"204", b"304"):
        return _Message(head, b"")
    return _Message(head, await _read_body(reader, head, has_body=True))


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None


async def _read_body(reader: asyncio.StreamReader, head: bytes, has_body: bool) -> bytes:
    """The body as it comes. has_body: one without a length lasts until the connection closes."""
    if (_header(head, b"transfer-encoding") or b"").lower() == b"chunked":
        pieces = []
        while True:
            size = await reader.readline()
            chunk = await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            pieces += [size, chunk]
            if len(chunk) == 2:
                return b"".join(pieces)
    length = _header(head, b"content-length")
    if length is not None:
        return await reader.readexactly(int(length))
    return await reader.read() if has_body else b""


def _header(head: bytes, name: bytes) -> bytes | None:
    found = re.search(rb"(?im)^" + name + rb":[ \t]*([^\r\n]*?)[ \t]*\r?$", head)
    return found[1] if found else None


def _error_503(method: str) -> _Message:
    body = b"" if method == "HEAD" else _SLOW_DOWN
    head = (
        b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n"
        b"x-amz-request-id: FAULTPROXY\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    return _Message(head, body)
