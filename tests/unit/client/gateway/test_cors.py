"""Pages of other sites: only those that the operator names may call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.unit.client.fakes.answers import picture
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.running import client, error_of, running

PATH = "/v1/images/generations"
APP = "https://app.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}


@pytest.fixture
def opened(drawing_server: WireServer, tmp_path: Path) -> Iterator[httpx2.Client]:
    """To one site, whose callers need a key."""
    keys = tmp_path / "keys"
    keys.write_text("secret", encoding="utf-8")
    settings = {"allow_origins": (APP, "http://localhost:3000"), "keys": keys}
    with running(url=drawing_server.url, **settings) as url, client(url) as http:
        yield http


def test_the_sites_that_are_named(opened: httpx2.Client) -> None:
    asked = opened.options(PATH, headers={"origin": APP, **PREFLIGHT})
    assert asked.status_code == 200, "a browser sends no key here"
    assert asked.headers["access-control-allow-origin"] == APP
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert "access-control-allow-credentials" not in asked.headers

    sent = {"origin": APP, "authorization": "Bearer secret"}
    answer = opened.post(PATH, json={"prompt": "a"}, headers=sent)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    refused = opened.post(PATH, json={"prompt": "a"}, headers={"origin": APP})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP), "errors can be read"


@pytest.mark.parametrize(("origin", "status"), [(APP, 200), ("http://evil.example", 403)])
def test_a_form_of_a_site(origin: str, status: int, opened: httpx2.Client) -> None:
    headers = {"origin": origin, "sec-fetch-site": "cross-site", "authorization": "Bearer secret"}
    image = {"image": ("in.png", picture("green"))}
    answer = opened.post("/v1/images/edits", data={"prompt": "a"}, files=image, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin") == (origin if status == 200 else None)


def test_other_sites(opened: httpx2.Client) -> None:
    for origin in ("http://evil.example", "https://app.example.evil.example", "http://app.example", "null"):
        asked = opened.options(PATH, headers={"origin": origin, **PREFLIGHT})
        assert asked.status_code == 400 and "access-control-allow-origin" not in asked.headers


def test_the_case_of_a_site_is_no_matter(drawing_server: WireServer) -> None:
    """Browsers say it in lower case, also to forms."""
    with running(url=drawing_server.url, allow_origins=("HTTPS://App.Example",)) as url, client(url) as http:
        asked = http.options(PATH, headers={"origin": APP, **PREFLIGHT})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, APP)
        image = {"image": ("in.png", picture("green"))}
        headers = {"origin": APP, "sec-fetch-site": "cross-site"}
        assert http.post("/v1/images/edits", data={"prompt": "a"}, files=image, headers=headers).status_code == 200


def test_all_sites(drawing_server: WireServer) -> None:
    with running(url=drawing_server.url, allow_origins=("*",)) as url, client(url) as http:
        asked = http.options(PATH, headers={"origin": APP, **PREFLIGHT})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "*")
        image = {"image": ("in.png", picture("green"))}
        headers = {"origin": APP, "sec-fetch-site": "cross-site"}
        assert http.post("/v1/images/edits", data={"prompt": "a"}, files=image, headers=headers).status_code == 200


def test_none_unless_it_is_wanted(alone: httpx2.Client) -> None:
    asked = alone.options(PATH, headers={"origin": APP, **PREFLIGHT})
    assert (asked.status_code, error_of(asked)["code"]) == (405, "method_not_allowed")
    assert not [name for name in asked.headers if name.startswith("access-control")]
    assert "access-control-allow-origin" not in alone.get("/v1/models", headers={"origin": APP}).headers
