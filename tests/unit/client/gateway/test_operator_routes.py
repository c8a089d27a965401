"""Health and metrics."""

from __future__ import annotations

import re

import httpx2

from tests.unit.client.fakes.grpc_server import WireServer


def test_health(gateway: httpx2.Client, server: WireServer) -> None:
    answer = gateway.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    server.model_ready = False
    answer = gateway.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert (answer.json()["ready"], answer.json()["model_ready"]) == (True, False)


def test_health_without_a_server(alone: httpx2.Client) -> None:
    answer = alone.get("/health")
    assert (answer.status_code, answer.json()["live"]) == (503, False)
    assert "127.0.0.1:9" in answer.json()["detail"]


def test_metrics(gateway: httpx2.Client) -> None:
    gateway.post("/v1/images/generations", json={"prompt": "secret", "n": 3})
    gateway.get("/v1/models/secret")
    gateway.request("SECRET", "/secret")
    text = gateway.get("/metrics").text
    assert 'flux_gateway_requests_total{route="POST /v1/images/generations",status="200"} 1.0' in text
    assert 'flux_gateway_requests_total{route="GET /v1/models/{name:path}",status="404"} 1.0' in text
    assert re.search(r'flux_gateway_requests_total\{route="other",status="40[45]"\} 1\.0', text)
    assert 'flux_gateway_request_seconds_count{route="POST /v1/images/generations"} 1.0' in text
    assert "flux_gateway_requests_in_flight 1.0" in text
    assert "flux_gateway_images_total 3.0" in text
    assert "secret" not in text.lower()
