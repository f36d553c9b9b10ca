"""Reads an image from a web server that a stranger may have named.

Every address is checked where the connection is made, so that it is the one connected to: a name
cannot change its address in between, and a redirect is a new request with a new check. The body is
counted as it comes, after its content encoding is undone.
"""

from __future__ import annotations

import contextlib
import functools
import http
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError

from dstc.errors import StorageError
from dstc.store.input_policy import InputTooLarge, NotAllowed, check_uri
from dstc.store.retries import DeadlinePassed

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
MAX_REDIRECTS = 5
_CHUNK = 1 << 16

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds tell a machine its credentials, beside 169.254.169.254, which is link-local.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
    )
)
# 64:ff9b::/96 is how networks of IPv6 alone write addresses of IPv4 (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class HttpStatusError(OSError):
    """A web server answered, and not with the file. `status` is what it answered."""

    def __init__(self, status: int) -> None:
        # Not the server's own words for it: they may be anything.
        known = {each.value: each.phrase for each in http.HTTPStatus}
        super().__init__(f"the server answers {status} {known.get(status, '')}".rstrip())
        self.status = status


def get(url: str, *, private_hosts: bool, max_bytes: int, seconds: float) -> bytes:
    """The body of a web address; redirects are followed and checked.

    Args:
        url: `http://` or `https://`. private_hosts: loopback and private addresses may be reached.
        max_bytes: of the decoded body. seconds: for all of it, redirects included.

    Raises:
        StorageError: the URL or its address is not allowed. InputTooLarge: more than `max_bytes`.
        FileNotFoundError: 404 or 410. HttpStatusError: another status.
        DeadlinePassed: it took longer than `seconds`. OSError: the connection broke.

    Example:
        get("https://host/a.png", private_hosts=False, max_bytes=200_000_000, seconds=300)
    """
    with _request_of(private_hosts, seconds) as request:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                found = _get_once(url, private_hosts, max_bytes)
                if request.is_late:
                    raise DeadlinePassed(f"not read within {seconds:g} s")
                if isinstance(found, bytes):
                    return found
                url = found
                check_uri(url)
                if not url.lower().startswith(("http://", "https://")):
                    raise StorageError("it redirects to what is no web address")
        except LocationValueError as error:
            raise StorageError("not a URL that can be used") from error
        except (HTTPError, OSError) as error:
            if request.is_late:
                raise DeadlinePassed(f"not read within {seconds:g} s") from error
            if isinstance(error, OSError):
                raise
            raise OSError(f"the connection broke: {_reason(error)}") from error
    raise StorageError(f"more than {MAX_REDIRECTS} redirects")


def _reason(error: HTTPError) -> str:
    """Why a request broke, in words that are not the server's."""
    for cause in (*error.args, error.__cause__):
        if isinstance(cause, OSError) and cause.strerror:
            return f"{type(cause).__name__}: {cause.strerror}"
    return type(error).__name__


def _get_once(url: str, private_hosts: bool, max_bytes: int) -> bytes | str:
    """The body, or where to look instead."""
    response = _pools(private_hosts, os.getpid()).request(
        "GET",
        url,
        # Images gain nothing by compression.
        headers={"Accept-Encoding": "identity", "User-Agent": "dstc"},
        preload_content=False,
        redirect=False,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
    )
    is_whole = False
    try:
        location = response.headers.get("Location")
        if response.status in (301, 302, 303, 307, 308) and location:
            return urljoin(url, location)
        if response.status in (404, 410):
            raise FileNotFoundError(f"the server answers {response.status}")
        if response.status != 200:
            raise HttpStatusError(response.status)
        body = _read_body(response, max_bytes)
        is_whole = True
        return body
    finally:
        if is_whole:
            response.release_conn()
        else:
            response.close()  # what is left of the body is not waited for


def _read_body(response: Any, max_bytes: int) -> bytes:
    body = bytearray()
    # `read1` gives what has come; `read` would wait for a whole chunk from a server that drips.
    while chunk := response.read1(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > max_bytes:
            raise InputTooLarge(max_bytes)
    return bytes(body)


def check_address(text: str, private_hosts: bool) -> None:
    """Whether an address may be connected to.

    Args:
        text: of IPv4 or IPv6, as `socket.getaddrinfo` gives it.

    Raises:
        StorageError: link-local, multicast, unspecified, or a cloud's metadata; private and
            loopback, unless `private_hosts`.
    """
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    for each in (address, *_embedded(address)):
        if each in _METADATA or each.is_link_local or each.is_multicast or each.is_unspecified:
            raise StorageError(f"the address {address} is never read from")
        if not each.is_global and not private_hosts:
            raise NotAllowed(
                f"the address {address} is private or loopback; expected a public one, or "
                "--allow-private-hosts"
            )


def _embedded(address: Address) -> Iterator[Address]:
    """Addresses of IPv4 that one of IPv6 stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield address.teredo[1]
    if address in _NAT64 or int(address) >> 32 == 0:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _connect(host: str, port: int, private_hosts: bool) -> socket.socket:
    """A connection to the first address of a host that is allowed and answers."""
    refusal: StorageError | None = None
    fault: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    ):
        try:
            check_address(str(address[0]), private_hosts)
        except StorageError as error:
            refusal = error
            continue
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            fault = error
        except BaseException:
            connection.close()
            raise
    raise fault or refusal or OSError("the host has no address")


class _Request:
    """A request under way: what it may reach, and when its connection is shut.

    Whoever waits for a connection that is shut goes on, wherever it waits: for TLS, headers, body.
    """

    def __init__(self, private_hosts: bool) -> None:
        self.private_hosts = private_hosts
        self.is_late = False
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None

    def watch(self, connection: socket.socket) -> None:
        # A second handle: TLS takes the first one over.
        mine = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = mine
            if self.is_late:
                self._shut()

    def end(self) -> None:
        with self._lock:
            self.is_late = True
            self._shut()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _shut(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


_of_thread = threading.local()


@contextlib.contextmanager
def _request_of(private_hosts: bool, seconds: float) -> Iterator[_Request]:
    request = _of_thread.request = _Request(private_hosts)
    timer = threading.Timer(seconds, request.end)
    timer.daemon = True
    timer.start()
    try:
        yield request
    finally:
        timer.cancel()
        request.close()


class _Connection(HTTPConnection):
    """urllib3 has one seam for sockets, `_new_conn`, which its own SOCKS support takes as well."""

    def _new_conn(self) -> socket.socket:
        request: _Request = _of_thread.request
        connection = _connect(self._dns_host, self.port, request.private_hosts)
        request.watch(connection)
        return connection

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:  # it may be from an earlier request, and ended with that one's
            _of_thread.request.watch(self.sock)
        super().putrequest(*arguments, **options)


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


@functools.lru_cache(maxsize=2)
def _pools(private_hosts: bool, process: int) -> urllib3.PoolManager:
    """Connections of this process, by host and what may be reached. No proxies are used."""
    pools = urllib3.PoolManager(num_pools=32, maxsize=8, ssl_context=ssl.create_default_context())
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pools
