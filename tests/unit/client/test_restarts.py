"""A server that comes, goes, and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fluxclient import ConnectionFailed, FluxClient
from tests.unit.client.fakes.behaviours import BOUND_S, draw_in_steps, stay, unused_port, wait_until
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer

Server = WireServer | HttpServer


def serve(protocol: str, port: int) -> Server:
    server = WireServer(port) if protocol == "grpc" else HttpServer(port)
    server.behaviour = draw_in_steps
    return server


def test_server_that_comes_up_in_time_is_reached(kind: Callable[..., Face], protocol: str) -> None:
    port = unused_port()
    servers: list[Server] = []
    starter = threading.Timer(0.3, lambda: servers.append(serve(protocol, port)))
    starter.start()
    try:
        client = kind(f"{protocol}://127.0.0.1:{port}", retries=5)
        assert client.generate("a cat", timeout=BOUND_S).seeds == (7,)
    finally:
        starter.join()
        servers[0].stop()


def test_connection_that_breaks_in_the_middle_is_made_anew(kind: Callable[..., Face], either: Server) -> None:
    servers: list[Server] = []

    def restart() -> None:
        either.stop()
        servers.append(serve(either.url.partition(":")[0], either.port))

    def break_off(request: Any, context: Any) -> Iterator[Any]:
        threading.Thread(target=restart).start()
        yield from stay(request, context)

    either.behaviour = break_off
    try:
        assert kind(either.url, retries=5).generate("a cat", timeout=BOUND_S).seeds == (7,)
    finally:
        assert wait_until(lambda: bool(servers))
        servers[0].stop()


def test_client_outlives_its_server(protocol: str) -> None:
    port = unused_port()
    with FluxClient(f"{protocol}://127.0.0.1:{port}", retries=0) as client:
        for _ in range(2):
            for _ in range(3):
                with pytest.raises(ConnectionFailed):
                    client.generate("a cat")
            server = serve(protocol, port)
            try:
                assert wait_until(lambda: bool(client.health()))
                assert client.generate("a cat").seeds == (7,)
            finally:
                server.stop()
