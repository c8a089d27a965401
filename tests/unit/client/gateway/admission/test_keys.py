"""API keys and the rate limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxclient.gateway.admission.keys import KEYS_VARIABLE, Keys, read_keys
from fluxclient.gateway.config import GatewayConfig
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.running import client, error_of, running

PATH = "/v1/images/generations"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# ours\nann: secret-of-ann\n\nsecret:with:colons\nplain-secret\n", encoding="utf-8")
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_of_a_file_and_of_the_environment(keys: Path) -> None:
    known = read_keys(keys, {KEYS_VARIABLE: "more, bob:of-bob,"})
    assert known.caller("Bearer secret-of-ann") == "ann"
    assert known.caller("bearer of-bob") == "bob"
    assert known.caller("Bearer with:colons") == "secret"
    assert known.caller("Bearer plain-secret") == "key 5"
    assert known.caller("Bearer more") == "key 1"
    for wrong in ("", "Bearer", "Bearer ", "secret-of-ann", "Basic secret-of-ann", "Bearer ann", "Bearer \xe9"):
        assert known.caller(wrong) is None


def test_a_key_that_is_no_ascii() -> None:
    """Servers decode headers as Latin-1, whatever the client meant."""
    assert Keys(["clé"]).caller("Bearer " + "clé".encode().decode("latin-1")) == "key 1"


def test_without_keys_the_gateway_is_open() -> None:
    assert not read_keys(None, {})


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"keys: .*empty holds no key; must hold one a line"):
        read_keys(empty, {})
    with pytest.raises(ValueError, match=r"keys: number 2 is empty; must be KEY or NAME:KEY"):
        Keys(["a", "ann:"])
    with pytest.raises(FileNotFoundError):
        read_keys(tmp_path / "none", {})


def test_what_needs_a_key(keys: Path, drawing_server: WireServer) -> None:
    with running(url=drawing_server.url, keys=keys) as url, client(url) as http:
        for path in ("/", "/page/page.css", "/page/state", "/health", "/metrics"):
            assert http.get(path).status_code == 200
        refused = [
            http.post(PATH, json={"prompt": "a"}),
            http.post(PATH, content=b"no JSON", headers=bearer("wrong")),
            http.get("/v1/models", headers={"Authorization": "Basic secret-of-ann"}),
            http.get("/jobs/any"),
            http.get("/nowhere"),
        ]
        for answer in refused:
            error = error_of(answer)
            assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "x-request-id" in answer.headers
        assert "is missing" in error_of(refused[0])["message"]
        assert "none of this gateway's API keys" in error_of(refused[1])["message"]
        body = {"prompt": "a", "response_format": "url"}
        (picture,) = http.post(PATH, json=body, headers=bearer("secret-of-ann")).json()["data"]
        assert http.get(picture["url"]).status_code == 200  # whoever has the address may have it


def test_a_job_belongs_to_a_key(keys: Path, drawing_server: WireServer) -> None:
    with running(url=drawing_server.url, keys=keys) as url, client(url) as http:
        made = http.post("/async-generate", json={"prompt": "a"}, headers=bearer("secret-of-ann")).json()
        path = made["status_url"]
        assert http.get(path, headers=bearer("plain-secret")).status_code == 404
        assert http.delete(path, headers=bearer("plain-secret")).status_code == 404
        assert http.get(path, headers=bearer("secret-of-ann")).status_code == 200


def test_each_key_has_a_rate_of_its_own(keys: Path, drawing_server: WireServer) -> None:
    with running(url=drawing_server.url, keys=keys, rate="3/hour") as url, client(url) as http:
        ann, other = bearer("secret-of-ann"), bearer("plain-secret")
        assert http.post(PATH, json={"prompt": "a"}, headers=ann).status_code == 200
        assert http.post(PATH, json={"prompt": 5}, headers=ann).status_code == 400  # does not count
        for _ in range(5):
            assert http.get("/v1/models", headers=ann).status_code == 200  # nor does this
        assert http.post("/batch-generate", json={"prompts": ["a", "b", "c"]}, headers=ann).status_code == 429
        assert http.post("/batch-generate", json={"prompts": ["a", "b"]}, headers=ann).status_code == 200
        for path in (PATH, "/generate", "/async-generate"):
            answer = http.post(path, json={"prompt": "a"}, headers=ann)
            assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
            assert 3500 < int(answer.headers["retry-after"]) <= 3600
        assert http.post(PATH, json={"prompt": "a"}, headers=other).status_code == 200


def test_a_batch_that_no_window_has_room_for(drawing_server: WireServer) -> None:
    with running(url=drawing_server.url, rate="2/second") as url, client(url) as http:
        answer = http.post("/batch-generate", json={"prompts": ["a"] * 3})
        assert (answer.status_code, error_of(answer)["param"]) == (400, "prompts")


def test_a_rate_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"rate: is 'often'; must be like 60/minute"):
        GatewayConfig(rate="often")
