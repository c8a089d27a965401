"""POST /v1/images/generations without stream, and the models."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.unit.client.fakes.answers import INFO, final, picture
from tests.unit.client.fakes.command import inputs_of, stay, wait_until
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.model_behaviours import draw_pixels
from tests.unit.client.gateway.running import client, error_of, running

PATH = "/v1/images/generations"


def picture_of(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def test_what_comes_back(gateway: httpx2.Client) -> None:
    answer = gateway.post(PATH, json={"prompt": "a", "n": 2, "seed": 5}).json()
    assert [picture_of(item).format for item in answer["data"]] == ["PNG", "PNG"]
    assert answer["seeds"] == [5, 6]
    assert (answer["size"], answer["output_format"], answer["background"]) == ("32x16", "png", "opaque")
    assert answer["info"] == INFO
    assert answer["created"] > 1_700_000_000


def test_what_of_a_prompt_had_no_room(gateway: httpx2.Client, server: WireServer) -> None:
    more = {"truncated": {"prompt": {"text_encoder": "in the rain"}}, "strength": 0.5}
    server.behaviour = lambda request, context: iter([final([[picture()]], [[7]], **more)])
    assert gateway.post(PATH, json={"prompt": "a"}).json()["info"] == {**INFO, **more}


def test_what_the_server_is_asked_for(gateway: httpx2.Client, drawing_server: WireServer) -> None:
    body = {
        "prompt": "a cat",
        "model": "flux",
        "n": 3,
        "size": "64x32",
        "output_format": "webp",
        "seed": 2**63 - 1,
        "num_inference_steps": 9,
        "guidance_scale": 2,
        "lora": "style:0.5",
        "negative_prompt": "",
        "true_cfg_scale": 2.5,
        "priority": 1,
        "deadline_ms": 5000,
        "user": None,
    }
    assert gateway.post(PATH, json=body | {"n": None, "seed": None, "size": "auto"}).status_code == 200
    assert gateway.post(PATH, json=body | {"seed": 4}).json()["output_format"] == "webp"
    plain, full = map(inputs_of, drawing_server.requests)
    assert full == {
        "prompt": "a cat",
        "num_images_per_prompt": 3,
        "width": 64,
        "height": 32,
        "output_format": "webp",
        "seed": 4,
        "num_inference_steps": 9,
        "guidance_scale": 2.0,
        "lora": "style:0.5",
        "negative_prompt": "",
        "true_cfg_scale": 2.5,
        "priority": 1,
        "deadline_ms": 5000,
        "base64": False,
        "progress": True,
    }
    assert not {"num_images_per_prompt", "width", "height", "seed"} & plain.keys()


def test_what_has_no_effect_is_accepted(gateway: httpx2.Client) -> None:
    body = {"prompt": "a", "quality": "hd", "style": "vivid", "background": "opaque", "moderation": "low", "user": "me"}
    assert gateway.post(PATH, json=body).status_code == 200


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_compression_is_the_quality(kind: str, gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_pixels
    sizes = []
    for quality in (0, 40, 100):
        body = {"prompt": "a", "output_format": kind, "output_compression": quality}
        answer = gateway.post(PATH, json=body).json()
        assert (picture_of(answer["data"][0]).format or "").lower() == kind
        sizes.append(len(answer["data"][0]["b64_json"]))
    assert sizes[0] < sizes[1] < sizes[2]


def test_files_by_address(gateway: httpx2.Client) -> None:
    body = {"prompt": "a", "n": 2, "response_format": "url", "output_format": "webp"}
    urls = [item["url"] for item in gateway.post(PATH, json=body).json()["data"]]
    assert len(set(urls)) == 2
    assert all(url.startswith(f"{gateway.base_url}/v1/images/files/") for url in urls)
    file = gateway.get(urls[1])
    assert (file.headers["content-type"], Image.open(io.BytesIO(file.content)).format) == ("image/webp", "WEBP")
    assert file.headers["cache-control"].startswith("private, max-age=3")
    assert error_of(gateway.get(urls[1] + "x"))["code"] == "not_found"


def test_what_the_store_could_never_hold_is_not_promised(drawing_server: WireServer) -> None:
    body = {"prompt": "a", "n": 2, "response_format": "url"}
    with running(url=drawing_server.url, max_files_bytes=100) as url, client(url) as http:
        answer = http.post(PATH, json=body)
        error = error_of(answer)
        assert (answer.status_code, error["param"]) == (400, "response_format")
        assert "bytes of at most 100; must be 'b64_json'" in error["message"]


def test_compression_of_a_png_file_is_that_of_openai(gateway: httpx2.Client, server: WireServer) -> None:
    answer = gateway.post(PATH, json={"prompt": "a", "output_compression": 100})
    assert picture_of(answer.json()["data"][0]).format == "PNG"
    assert inputs_of(server.requests[0])["output_format"] == "png"
    refused = gateway.post(PATH, json={"prompt": "a", "output_format": "png", "output_compression": 99})
    assert (refused.status_code, error_of(refused)["param"]) == (400, "output_compression")


def test_addresses_by_default_and_behind_a_proxy(drawing_server: WireServer) -> None:
    settings: dict[str, Any] = {"response_format": "url", "public_url": "https://flux.example/draws/"}
    with running(url=drawing_server.url, **settings) as url, client(url) as http:
        (item,) = http.post(PATH, json={"prompt": "a"}).json()["data"]
        base, slash, path = item["url"].partition("/v1/")
        assert base == "https://flux.example/draws"
        assert http.get(slash + path).headers["content-type"] == "image/png"
        (item,) = http.post(PATH, json={"prompt": "a", "response_format": "b64_json"}).json()["data"]
        assert picture_of(item).format == "PNG"
        streamed = http.post(PATH, json={"prompt": "a", "stream": True})
        assert "image_generation.completed" in streamed.text, "a stream carries its pictures whatever the default"
        job = http.post("/async-generate", json={"prompt": "a"}).json()
        assert job["status_url"] == f"https://flux.example/draws/jobs/{job['job_id']}"


def test_models(gateway: httpx2.Client) -> None:
    (model,) = gateway.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("flux", "model")
    assert gateway.get("/v1/models/flux").json() == model
    refusals = gateway.get("/v1/models/org/other"), gateway.post(PATH, json={"prompt": "a", "model": "other"})
    for refusal in refusals:
        assert (refusal.status_code, error_of(refusal)["code"]) == (404, "model_not_found")
        assert "it must be 'flux', or left out; operators add names with --alias" in error_of(refusal)["message"]


def test_aliases(drawing_server: WireServer) -> None:
    """For clients that have the name of a model built in."""
    with running(url=drawing_server.url, aliases=("gpt-image-1", "org/dall-e", "flux")) as url, client(url) as http:
        listed = http.get("/v1/models").json()["data"]
        assert [(model["id"], model.get("root")) for model in listed] == [
            ("flux", None),
            ("gpt-image-1", "flux"),
            ("org/dall-e", "flux"),
        ]
        assert http.get("/v1/models/org/dall-e").json() == listed[2]
        assert http.post(PATH, json={"prompt": "a", "model": "gpt-image-1"}).status_code == 200
        assert [request.model_name for request in drawing_server.requests] == ["flux"]
        refused = http.post(PATH, json={"prompt": "a", "model": "gpt-image-2"})
        assert "must be 'flux' or 'gpt-image-1' or 'org/dall-e'" in error_of(refused)["message"]


@pytest.fixture
def waiting(server: WireServer) -> Iterator[str]:
    server.behaviour = stay
    with running(url=server.url) as url:
        yield url


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"prompt": "a"}),
        (PATH, {"prompt": "a", "stream": True}),
        ("/generate", {"prompt": "a"}),
        ("/batch-generate", {"prompts": ["a"]}),
    ],
)
def test_who_leaves_cancels(path: str, body: dict[str, Any], waiting: str, server: WireServer) -> None:
    with client(waiting) as http, pytest.raises(httpx2.ReadTimeout):
        http.post(path, json=body, timeout=1.0)
    assert server.cancelled.wait(10)
    left = f'flux_gateway_requests_total{{route="POST {path}",status="499"}} 1.0'
    with client(waiting) as http:
        assert wait_until(lambda: left in http.get("/metrics").text)
