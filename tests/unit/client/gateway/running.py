"""A gateway in a thread of this process, reached over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from fluxclient.gateway.app import create_app
from fluxclient.gateway.config import GatewayConfig
from fluxclient.gateway.server import GatewayServer

BOUND_S = 20.0
"""Far more than anything here takes, and what a hang would exceed."""


@contextmanager
def running(**settings: Any) -> Iterator[str]:
    """The URL of a gateway with these settings, on a free port, for as long as the context lasts."""
    config = GatewayConfig(**{"port": 0, "stop_within_s": 5, **settings})
    server = GatewayServer(config, create_app(config))
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        deadline_s = time.monotonic() + BOUND_S
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline_s, "the gateway did not start"
            time.sleep(0.005)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(BOUND_S)
        assert not thread.is_alive(), "the gateway did not stop"


def client(url: str, **options: Any) -> httpx2.Client:
    return httpx2.Client(base_url=url, timeout=BOUND_S, **options)


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The data of each server-sent event; `event` is its name."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield {"event": name, **json.loads(line.removeprefix("data: "))}


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, which has all four keys and nothing else."""
    assert response.headers["content-type"] == "application/json", response.text
    (name, error), *others = response.json().items()
    assert name == "error" and not others and set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and isinstance(error["type"], str) and isinstance(error["code"], str)
    return dict(error)
