"""The page, and what it knows of the server."""

from __future__ import annotations

import re

import httpx2

from fluxclient.gateway.page.routes import PAGE
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer
from tests.unit.client.gateway.running import client, running


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
