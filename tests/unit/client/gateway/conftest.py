from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from fluxclient.gateway.admission.keys import KEYS_VARIABLE
from tests.unit.client.fakes.command import draw
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.running import client, running


@pytest.fixture(scope="session", autouse=True)
def no_keys_of_ours() -> Iterator[None]:
    """Those of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(KEYS_VARIABLE, raising=False)
        yield


@pytest.fixture
def drawing_server(server: WireServer) -> WireServer:
    server.behaviour = draw
    return server


@pytest.fixture
def gateway(drawing_server: WireServer) -> Iterator[httpx2.Client]:
    """A client of a gateway with no settings but its backend, which is not asked twice."""
    with running(url=drawing_server.url, retries=0) as url, client(url) as http:
        yield http


@pytest.fixture(scope="session")
def alone(no_keys_of_ours: None) -> Iterator[httpx2.Client]:
    """A client of a gateway with nobody behind it: whatever it does not answer itself is 503."""
    with running(url="grpc://127.0.0.1:9", retries=0) as url, client(url) as http:
        yield http
