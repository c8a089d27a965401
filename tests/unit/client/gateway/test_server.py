"""The gateway as a process, and how it reads HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import httpx2
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from fluxclient.gateway.app import create_app
from fluxclient.gateway.config import GatewayConfig
from fluxclient.gateway.server import uvicorn_config
from tests.unit.client.fakes.answers import step
from tests.unit.client.fakes.command import BOUND_S, draw, stay, wait_until
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.running import client, error_of, events


def test_an_offer_of_http2(gateway: httpx2.Client) -> None:
    """As Java's client makes it with each request; curl does with --http2."""
    body = json.dumps({"prompt": "a"}).encode()
    with socket.create_connection((gateway.base_url.host, gateway.base_url.port or 0), BOUND_S) as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
            b"HTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_whatever_else_is_installed_http_is_read_by_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", ModuleType("httptools"))
    config = GatewayConfig()
    read_by = uvicorn_config(config, create_app(config))
    read_by.load()
    assert read_by.http_protocol_class is H11Protocol


def test_proxies_end_idle_connections_first() -> None:
    """Who closes first cannot be sent a request meanwhile; nginx keeps its connections for 60 s."""
    config = GatewayConfig()
    assert uvicorn_config(config, create_app(config)).timeout_keep_alive > 60


SERVE = "from fluxclient.gateway.config import *; from fluxclient.gateway.server import *; serve(GatewayConfig({}))"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(server: WireServer, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    settings = {"port": port, "url": server.url, **settings}
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    path = os.pathsep.join(entry for entry in sys.path if entry)
    gateway = subprocess.Popen(
        [sys.executable, "-c", SERVE.format(arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: answers(url))
        yield gateway, url
    finally:
        gateway.kill()
        gateway.communicate()


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.ConnectError:
        return False


class Held:
    """A server that makes a step, so that streams have begun, and answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, request: Any, context: Any) -> Any:
        yield step(1, 8)
        assert self.go_on.wait(BOUND_S)
        yield from draw(request, context)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_gateway_answer_what_is_in_flight(signum: signal.Signals, server: WireServer) -> None:
    server.behaviour = held = Held()
    answers: list[Any] = []

    def ask(stream: bool) -> None:
        body = {"prompt": "a", "stream": stream}
        with client(url) as http, http.stream("POST", "/v1/images/generations", json=body) as response:
            answers.append(list(events(response))[-1]["type"] if stream else len(response.read()))

    with process(server) as (gateway, url):
        askers = [threading.Thread(target=ask, args=(stream,)) for stream in (False, True)]
        for asker in askers:
            asker.start()
        assert wait_until(lambda: len(server.requests) == 2)
        gateway.send_signal(signum)
        assert wait_until(lambda: not listens(url))
        assert not server.cancelled.wait(1.0)
        held.go_on.set()
        for asker in askers:
            asker.join(BOUND_S)
        assert gateway.wait(BOUND_S) == 0
        assert gateway.stderr is not None and "Traceback" not in gateway.stderr.read()
    assert len(answers) == 2 and "image_generation.completed" in answers


def test_a_stop_does_not_wait_for_ever(server: WireServer) -> None:
    server.behaviour = stay
    with process(server, stop_within_s=1) as (gateway, url), client(url) as http:
        body = {"prompt": "a", "stream": True}
        with http.stream("POST", "/v1/images/generations", json=body) as response:
            assert response.status_code == 200
            gateway.send_signal(signal.SIGTERM)
            *_, last = events(response)
            assert (last["event"], last["error"]["code"]) == ("error", "cancelled")
            assert last["error"]["message"] == "gateway: is being stopped; send the request again"
            assert gateway.wait(BOUND_S) == 0
    assert server.cancelled.wait(BOUND_S)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", {"prompt": "a"}),
        ("/v1/images/generations", {"prompt": "a", "stream": True}),  # which has not begun
        ("/generate", {"prompt": "a"}),
        ("/batch-generate", {"prompts": ["a"] * 20}),
    ],
)
def test_a_stop_answers_those_who_wait(path: str, body: dict[str, Any], server: WireServer) -> None:
    server.behaviour = stay
    answers: list[httpx2.Response] = []
    with process(server, stop_within_s=1) as (gateway, url), client(url) as http:
        asker = threading.Thread(target=lambda: answers.append(http.post(path, json=body)))
        asker.start()
        assert wait_until(lambda: len(server.requests) == min(16, len(body.get("prompts", "a"))))
        gateway.send_signal(signal.SIGTERM)
        asker.join(BOUND_S)
        assert gateway.wait(BOUND_S) == 0
    assert (answers[0].status_code, error_of(answers[0])["code"]) == (503, "cancelled")
    assert answers[0].headers["retry-after"] == "2"


def test_a_stop_answers_who_is_still_sending(server: WireServer) -> None:
    with process(server, stop_within_s=1) as (gateway, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), BOUND_S) as connection:
            connection.sendall(
                b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b'Content-Length: 99\r\n\r\n{"prompt": '
            )
            assert wait_until(lambda: "in_flight 2.0" in httpx2.get(f"{url}/metrics").text)
            gateway.send_signal(signal.SIGTERM)
            assert connection.recv(100).startswith(b"HTTP/1.1 503 ")
        assert gateway.wait(BOUND_S) == 0


def listens(url: str) -> bool:
    try:
        httpx2.get(f"{url}/metrics")
    except httpx2.TransportError:
        return False
    return True


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("keys=__import__('pathlib').Path('/nonexistent')", "No such file or directory: '/nonexistent'"),
        ("url='triton'", "'triton' is not an address like grpc://localhost:8001"),
    ],
)
def test_settings_that_cannot_be_used_are_named_in_one_line(settings: str, problem: str) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    ended = subprocess.run(
        [sys.executable, "-c", SERVE.format(settings)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ended.returncode == 2
    assert problem in ended.stderr and ended.stderr.count("\n") == 1
