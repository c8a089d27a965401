from __future__ import annotations

import pytest

from fluxclient import AsyncFluxClient, FluxClient
from fluxclient.transport.address import Address


@pytest.mark.parametrize(
    ("url", "scheme", "target", "path", "metrics_url"),
    [
        ("grpc://localhost:8001", "grpc", "localhost:8001", "", "http://localhost:8002/metrics"),
        ("grpc://10.0.0.7", "grpc", "10.0.0.7:8001", "", "http://10.0.0.7:8002/metrics"),
        ("grpc://triton:9/", "grpc", "triton:9", "", "http://triton:8002/metrics"),
        ("grpc://[::1]:8001", "grpc", "[::1]:8001", "", "http://[::1]:8002/metrics"),
        ("http://localhost", "http", "localhost:8000", "", "http://localhost:8002/metrics"),
        ("http://triton:9/", "http", "triton:9", "", "http://triton:8002/metrics"),
        ("https://flux.example", "https", "flux.example:443", "", "http://flux.example:8002/metrics"),
        ("https://example.org/flux/", "https", "example.org:443", "/flux", "http://example.org:8002/metrics"),
    ],
)
def test_address(url: str, scheme: str, target: str, path: str, metrics_url: str) -> None:
    address = Address(url)

    assert (address.scheme, address.target, address.path) == (scheme, target, path)
    assert address.metrics_url == metrics_url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8001",
        "grpc://",
        "http:///v2",
        "ftp://a:1",
        "grpc://a:1/v2",
        "grpc://a:99999",
        "http://a:b",
        "http://me:secret@a",
        "http://a?b=c",
    ],
)
def test_no_address(url: str) -> None:
    for make in (Address, FluxClient, AsyncFluxClient):
        with pytest.raises(ValueError, match="address"):
            make(url)
