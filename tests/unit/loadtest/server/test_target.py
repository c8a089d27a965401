from __future__ import annotations

import socket

import pytest

from loadtest.failures import BadInput
from loadtest.server.target import Target, parse_target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu:9000", ("gpu", 9000, "gpu:8001", "http://gpu:8002/metrics")),
        ("gpu", ("gpu", 8000, "gpu:8001", "http://gpu:8002/metrics")),
        ("http://[::1]:8000/", ("[::1]", 8000, "[::1]:8001", "http://[::1]:8002/metrics")),
    ],
)
def test_addresses_follow_from_the_url(url: str, expected: tuple[str, int, str, str]) -> None:
    target = parse_target(url)
    assert (target.host, target.http_port, target.grpc, target.metrics_url) == expected


@pytest.mark.parametrize("url", ["ftp://x", "http://x:99999", "http://", "http://x/v2", "grpc://x:8001"])
def test_a_wrong_url_is_told(url: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_target(url)
    assert f"--url is {url!r}" in str(raised.value)


def test_who_listens_without_being_triton_is_not_the_server() -> None:
    """A tunnel, say, or the proxy of a container."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert parse_target(f"127.0.0.1:{listener.getsockname()[1]}").processes() == []


def test_this_machine_is_known_as_such() -> None:
    assert parse_target("localhost").is_local
    assert not Target("192.0.2.1", 8000, "192.0.2.1:8001", "").is_local
    assert not Target("no.such.host.invalid", 8000, "", "").is_local
