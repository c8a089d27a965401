"""Ports: taken, free, or any."""

from __future__ import annotations

import socket

import pytest

from tools.triton.errors import PortTaken
from tools.triton.ports import FREE_PORTS, choose_port


def test_any_port_is_a_free_one() -> None:
    taken: set[int] = set()
    for service in ("http", "grpc", "metrics"):
        port = choose_port("127.0.0.1", service, 0, taken)
        assert port in FREE_PORTS and port not in taken
        taken.add(port)


def test_a_taken_port_names_its_option() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 is taken.*--metrics-port.*METRICS_PORT"):
            choose_port("127.0.0.1", "metrics", port, set())
    assert choose_port("127.0.0.1", "metrics", port, set()) == port


def test_two_services_cannot_share_a_port() -> None:
    port = choose_port("127.0.0.1", "http", 0, set())
    with pytest.raises(PortTaken, match="--grpc-port"):
        choose_port("127.0.0.1", "grpc", port, {port})
