from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from dstc.errors import SettingsError
from dstc.ray_address import check_address, no_cluster


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def head_with_token() -> Iterator[str]:
    """Answers every call as Ray's head does where a token is missing."""

    class Refusing(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                raise AssertionError

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def mute_server() -> Iterator[int]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nobody_listens(closed_port: int, scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{closed_port}"
    with pytest.raises(SettingsError) as refused:
        check_address(address)
    assert str(refused.value) == (
        f"--address {address}: no Ray cluster answers there (127.0.0.1, port {closed_port}: "
        "connection refused)"
    )


def test_a_host_that_is_none() -> None:
    with pytest.raises(SettingsError, match="no Ray cluster answers there .*nosuch.invalid"):
        check_address("nosuch.invalid:6379")


def test_something_else_listens(mute_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstc.ray_address._ANSWER_S", 1.0)
    with pytest.raises(SettingsError, match="something listens, which is no Ray cluster"):
        check_address(f"127.0.0.1:{mute_server}")


def test_a_missing_token_is_told_from_a_missing_cluster(
    no_token: None, head_with_token: str
) -> None:
    with pytest.raises(SettingsError, match="asks for a token, and none is given"):
        check_address(head_with_token)


def test_a_wrong_token_is_told_when_ray_has_given_up(
    no_token: None, head_with_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "other")
    check_address(head_with_token)  # it may be the right one
    assert "refuses the token" in str(no_cluster(head_with_token))


@pytest.mark.parametrize("address", ["auto", "local", "/tmp/ray/plasma", "a:b:c"])
def test_other_names_are_left_to_ray(address: str) -> None:
    check_address(address)
