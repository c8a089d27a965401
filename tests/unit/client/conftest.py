from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.client.wire_server import WireServer


@pytest.fixture
def server() -> Iterator[WireServer]:
    server = WireServer()
    yield server
    server.stop()
