"""Whether a Ray cluster answers at an address, asked before Ray itself asks for two minutes."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from dstc.errors import SettingsError

_CONNECT_S = 5.0
_ANSWER_S = 8.0
_CLIENT_PORT = 10001  # of `ray://HOST` without one
_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, and RAY_AUTH_MODE=token"


def check_address(address: str) -> None:
    """Returns if a cluster answers, or may: names such as "auto" are left to Ray.

    Ray 2.60 tries for 26 s where a token is wrong, and for over two minutes where nobody listens;
    it says the same of both.

    Args:
        address: "HOST:PORT", or "ray://HOST[:PORT]", which Ray's client is for.

    Raises:
        SettingsError: nobody listens there, what listens is no Ray, or no token is given where
            one is needed.
    """
    found = re.fullmatch(r"(ray://)?(\[[^\]]+\]|[^:/\[\]]+)(?::(\d{1,5}))?/?", address)
    if found is None or not (found[1] or found[3]):
        return
    host, port = found[2].strip("[]"), int(found[3] or _CLIENT_PORT)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise no_cluster(address, f"{host}, port {port}: {_said(error)}") from error
    if found[1] or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    says = _ask(f"{found[2]}:{port}")
    if says in ("DEADLINE_EXCEEDED", "UNAVAILABLE"):
        raise no_cluster(address, "something listens, which is no Ray cluster")
    if says == "UNAUTHENTICATED" and not _has_token():
        raise SettingsError(
            f"--address {address}: the Ray cluster there asks for a token, and none is given; "
            f"expected {_TOKEN}"
        )


def no_cluster(address: str, why: str = "") -> SettingsError:
    """The error for an address where Ray could not be joined; asks once more why.

    >>> str(no_cluster("head:6379", "connection refused"))
    '--address head:6379: no Ray cluster answers there (connection refused)'
    """
    target = address.removeprefix("ray://")
    if not why and re.fullmatch(r".+:\d+", target) and _ask(target) == "UNAUTHENTICATED":
        return SettingsError(
            f"--address {address}: the Ray cluster there refuses the token; expected its own, in "
            f"{_TOKEN}"
        )
    return SettingsError(
        f"--address {address}: no Ray cluster answers there" + (f" ({why})" if why else "")
    )


def _ask(target: str) -> str:
    """Name of the status that Ray's head answers a question without a token with."""
    import grpc

    with grpc.insecure_channel(target) as channel:
        # Nothing is asked for: an empty message is a valid request.
        question = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            question(b"", timeout=_ANSWER_S)
        except grpc.RpcError as error:
            # A web server, which gRPC reports as a method that is not there.
            is_http = "http2 header with status" in (error.details() or "")
            return "UNAVAILABLE" if is_http else str(error.code().name)
    return "OK"


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {_CONNECT_S:.0f} s"
    return str(getattr(error, "strerror", None) or error).lower()
