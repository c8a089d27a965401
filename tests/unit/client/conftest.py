from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.client.fakes.command import draw
from tests.unit.client.fakes.faces import FACES, Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer


@pytest.fixture
def server() -> Iterator[WireServer]:
    server = WireServer()
    yield server
    server.stop()


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def either(protocol: str) -> Iterator[WireServer | HttpServer]:
    """A server, once of each protocol."""
    server = WireServer() if protocol == "grpc" else HttpServer()
    yield server
    server.stop()


@pytest.fixture(params=FACES, ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Callable[..., Face]:
    made: Callable[..., Face] = request.param
    return made


@pytest.fixture
def client(kind: Callable[..., Face], either: WireServer | HttpServer) -> Face:
    """Both clients over both protocols."""
    return kind(either.url)


@pytest.fixture
def here(server: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and a server to talk to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUXCLIENT_URL", server.url)
    server.behaviour = draw
    return tmp_path
