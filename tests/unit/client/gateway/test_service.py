"""Health, metrics, the page, and the process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from fluxclient.gateway.service import PAGE
from tests.unit.client.answers import step
from tests.unit.client.cli_server import BOUND_S, draw, stay, wait_until
from tests.unit.client.gateway.running import client, events, running
from tests.unit.client.http_server import HttpServer
from tests.unit.client.wire_server import WireServer


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


def test_the_page(alone: httpx2.Client) -> None:
    page = alone.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == "default-src 'self'; img-src 'self' data: blob:"
    parts = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    modules = re.findall(r'from "./([^"]+)"', "".join(file.read_text() for file in PAGE.glob("*.js")))
    parts += sorted({f"page/{module}" for module in modules})
    assert len(parts) >= 5
    for part in parts:
        file = alone.get(f"/{part}")
        assert file.status_code == 200
        assert file.headers["cache-control"] == "no-cache"
        again = alone.get(f"/{part}", headers={"if-none-match": file.headers["etag"]})
        assert again.status_code == 304
    for outside in ("/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/app.py"):
        assert alone.get(outside).status_code == 404


def test_what_the_page_knows_of_the_server(server: WireServer) -> None:
    metrics = HttpServer()
    metrics.metrics = """
        flux_jobs_running{model="flux"} 16
        flux_jobs_waiting{model="flux"} 3
        flux_default{model="flux",option="num_inference_steps"} 28
        flux_limit{model="flux",option="width"} 2048
        flux_checkpoint_loaded_seconds{model="flux",name="black-forest-labs/FLUX.1-dev"} 1.7e9
    """
    with running(url=server.url, metrics_url=metrics.metrics_url) as url, client(url) as http:
        known = http.get("/page/state")
        metrics.stop()
    assert known.json() == {
        "live": True,
        "ready": True,
        "model": "FLUX.1-dev",
        "running": 16,
        "waiting": 3,
        "defaults": {"num_inference_steps": 28},
        "limits": {"width": 2048},
    }
    with running(url=server.url, metrics_url=metrics.metrics_url) as url, client(url) as http:
        unknown = http.get("/page/state").json()
    assert (unknown["ready"], unknown["model"]) == (True, "flux"), "also where its metrics are out of reach"
    assert [unknown[name] for name in ("running", "waiting", "defaults", "limits")] == [None, None, {}, {}]


def test_what_the_page_knows_without_a_server(alone: httpx2.Client) -> None:
    known = alone.get("/page/state").json()
    assert (known["live"], known["ready"], known["model"]) == (False, False, "flux")


# ---- the process ----

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
            assert gateway.wait(BOUND_S) == 0
    assert server.cancelled.wait(BOUND_S)


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
