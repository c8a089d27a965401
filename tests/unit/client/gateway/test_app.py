"""What holds for all routes."""

from __future__ import annotations

from typing import Any

import httpx2

from fluxclient.gateway import operator_routes, replaced_routes
from fluxclient.gateway.openai import routes as openai_routes
from fluxclient.gateway.page import routes as page_routes
from tests.unit.client.fakes.command import wait_until


def test_head_is_where_get_is(gateway: httpx2.Client) -> None:
    """Watchers of sites and download managers ask so."""
    job = gateway.post("/async-generate", json={"prompt": "a"}).json()["status_url"]
    assert wait_until(lambda: bool(gateway.get(job).json()["status"] == "completed"))
    drawn = gateway.post("/v1/images/generations", json={"prompt": "a", "response_format": "url"}).json()
    paths = [
        "/",
        "/page/page.js",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/flux",
        "/page/state",
        job,
        drawn["data"][0]["url"],
    ]
    for path in paths:
        got, head = gateway.get(path), gateway.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/metrics":  # which count meanwhile
            assert head.headers["content-length"] == str(len(got.content))
    readable = {path for route in every_route() for path in [route.path] if "GET" in (route.methods or ())}
    assert len(readable) == len(paths)
    assert all("HEAD" in route.methods for route in every_route() if "GET" in (route.methods or ()))
    assert gateway.head("/v1/images/generations").status_code == 405
    assert gateway.head("/jobs/none").status_code == 404


ROUTES = (openai_routes, replaced_routes, operator_routes, page_routes)


def every_route() -> list[Any]:
    return [route for part in ROUTES for route in part.router.routes]
