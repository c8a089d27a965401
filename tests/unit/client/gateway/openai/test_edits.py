"""POST /v1/images/edits: a form with a picture in it."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.unit.client.fakes.answers import picture
from tests.unit.client.fakes.command import inputs_of, stay, wait_until
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.model_behaviours import draw_with_previews, fail_with
from tests.unit.client.gateway.running import client, error_of, events, running

PATH = "/v1/images/edits"
FILE = picture("green")
IMAGE = {"image": ("in.png", FILE)}


def test_what_the_server_is_asked_for(gateway: httpx2.Client, server: WireServer) -> None:
    form = {
        "prompt": "ein Bär",
        "model": "flux",
        "n": "2",
        "size": "64x32",
        "output_format": "webp",
        "seed": f"{2**62}",
        "num_inference_steps": "9",
        "guidance_scale": "2.5",
        "lora": "style:0.5",
        "negative_prompt": "",
        "true_cfg_scale": "2",
        "strength": "0.75",
        "priority": "1",
        "deadline_ms": "5000",
        "stream": "false",
        "quality": "high",
        "input_fidelity": "high",
        "user": "me",
    }
    answer = gateway.post(PATH, data=form, files=IMAGE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["seeds"] == [2**62, 2**62 + 1]
    for item in answer.json()["data"]:
        assert Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).format == "WEBP"
    assert inputs_of(server.requests[0]) == {
        "prompt": "ein Bär",
        "num_images_per_prompt": 2,
        "width": 64,
        "height": 32,
        "output_format": "webp",
        "seed": 2**62,
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "lora": "style:0.5",
        "negative_prompt": "",
        "true_cfg_scale": 2.0,
        "image": FILE,
        "strength": 0.75,
        "priority": 1,
        "deadline_ms": 5000,
        "base64": False,
        "progress": True,
    }


def test_an_image_that_came_in_a_list(gateway: httpx2.Client, server: WireServer) -> None:
    answer = gateway.post(PATH, data={"prompt": "a", "response_format": "url"}, files={"image[]": ("in.png", FILE)})
    assert gateway.get(answer.json()["data"][0]["url"]).headers["content-type"] == "image/png"
    sent = inputs_of(server.requests[0])
    assert sent["image"] == FILE and "strength" not in sent


def test_a_stream(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(6)
    form = {"prompt": "a", "stream": "true", "partial_images": "2", "progress": "true", "num_inference_steps": "10"}
    with gateway.stream("POST", PATH, data=form, files=IMAGE) as response:
        told = list(events(response))
    kinds = [event["type"].removeprefix("image_edit.") for event in told]
    assert kinds == [*["progress", "progress", "partial_image"] * 2, "progress", "progress", "completed"]
    assert all(event["event"] == event["type"] for event in told)
    assert inputs_of(server.requests[0])["preview_interval"] == 2, "two of the 6 steps that a strength of 0.6 leaves"


def test_the_steps_of_an_edit_are_not_taken_for_those_of_the_model(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(4)
    wanted = {"prompt": "a", "stream": "true", "partial_images": "1"}
    gateway.post(PATH, data=wanted, files=IMAGE).raise_for_status()
    gateway.post("/v1/images/generations", json={"prompt": "a", "stream": True, "partial_images": 1}).raise_for_status()
    gateway.post(PATH, data={**wanted, "strength": "0.5"}, files=IMAGE).raise_for_status()
    assert [inputs_of(request)["preview_interval"] for request in server.requests] == [1, 1, 1]
    gateway.post("/v1/images/generations", json={"prompt": "a", "stream": True, "partial_images": 1}).raise_for_status()
    assert inputs_of(server.requests[-1])["preview_interval"] == 2


def test_errors_of_the_server(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with("FLUX_INVALID_ARGUMENT: strength: is 2; must be a number from 0.01 to 1 [request r]")
    for stream in ("false", "true"):
        answer = gateway.post(PATH, data={"prompt": "a", "stream": stream, "strength": "2"}, files=IMAGE)
        assert (answer.status_code, error_of(answer)["param"]) == (400, "strength")


WRONG: dict[str, tuple[dict[str, Any], Any, str, str | None, str]] = {
    "prompt": ({}, IMAGE, "missing_required_parameter", "prompt", "prompt: is missing"),
    "image": ({"prompt": "a"}, {"user": (None, "me")}, "missing_required_parameter", "image", "image: is missing"),
    "text": ({"prompt": "a", "image": "a cat"}, {"user": (None, "me")}, "invalid_value", "image", "is 5 bytes that"),
    "empty": ({"prompt": "a"}, {"image": ("in.png", b"")}, "invalid_value", "image", "is 0 bytes that are no PNG"),
    "other": ({"prompt": "a"}, {"image": ("in.png", b"%PDF-1.7")}, "invalid_value", "image", "no PNG, JPEG or WebP"),
    "two": (
        {"prompt": "a"},
        [("image[]", ("1.png", FILE)), ("image[]", ("2.png", FILE))],
        "invalid_value",
        "image",
        "image: is there more than once; must be one",
    ),
    "mask": ({"prompt": "a"}, {**IMAGE, "mask": ("m.png", FILE)}, "invalid_value", "mask", "mask: is not supported: "),
    "twice": ({"prompt": ["a", "b"]}, IMAGE, "invalid_value", "prompt", "prompt: is there more than once"),
    "unknown": ({"prompt": "a", "sede": "7"}, IMAGE, "unknown_parameter", "sede", "'sede': there is no such"),
    "unknown file": ({"prompt": "a"}, {**IMAGE, "markup": ("m", b"")}, "unknown_parameter", "markup", "'markup': "),
    "file": ({}, {**IMAGE, "prompt": ("p.txt", b"a")}, "invalid_value", "prompt", "prompt: is a file; must be text"),
    "integer": ({"prompt": "a", "n": "two"}, IMAGE, "invalid_value", "n", "n: is 'two'; input should be a valid"),
    "number": ({"prompt": "a", "strength": "nan"}, IMAGE, "invalid_value", "strength", "strength: is 'nan'; "),
    "together": ({"prompt": "a", "partial_images": "1"}, IMAGE, "invalid_value", "partial_images", "needs stream"),
    "many": (
        {"prompt": "a"},
        [("image", ("a.png", FILE))] * 9,
        "invalid_form",
        None,
        "body: is no form that can be read",
    ),
    "long": ({"prompt": "a" * 1_100_000}, IMAGE, "invalid_form", None, "body: is no form that can be read: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_form_that_is_wrong(name: str, alone: httpx2.Client) -> None:
    form, files, code, param, words = WRONG[name]
    answer = alone.post(PATH, data=form, files=files)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b'{"prompt": "a"}'),
        ("multipart/form-data", b"no boundary is named"),
        ("multipart/form-data; boundary=x", b"no boundary is there"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\ncut of'),
    ],
)
def test_a_body_that_is_no_form(kind: str, content: bytes, alone: httpx2.Client) -> None:
    answer = alone.post(PATH, content=content, headers={"content-type": kind})
    error = error_of(answer)
    assert answer.status_code == 400
    assert error["code"] in ("invalid_form", "missing_required_parameter")


def test_what_is_too_large(server: WireServer) -> None:
    with running(url=server.url, max_image_bytes=5000, max_body_bytes=4000) as url, client(url) as http:
        image = http.post(PATH, data={"prompt": "a"}, files={"image": ("in.png", FILE + bytes(6000))})
        assert (image.status_code, error_of(image)["code"], error_of(image)["param"]) == (
            413,
            "body_too_large",
            "image",
        )
        assert error_of(image)["message"] == f"image: is {len(FILE) + 6000} bytes; must be at most 5000"
        announced = http.post(PATH, data={"prompt": "a"}, files={"image": ("in.png", bytes(10_000))})
        chunks: Any = iter(
            [b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n', *[bytes(999)] * 9]
        )
        endless = http.post(PATH, content=chunks, headers={"content-type": "multipart/form-data; boundary=x"})
        for answer in (announced, endless):
            assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
            assert error_of(answer)["message"].endswith("must be at most 9000 bytes")
        plain = http.post("/v1/images/generations", json={"prompt": "a" * 5000})
        assert error_of(plain)["message"].endswith("must be at most 4000 bytes")
    assert server.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://flux.example"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://{host}"}, 200),
        ({"sec-fetch-site": "cross-site", "origin": "http://{host}"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_send_forms(
    headers: dict[str, str], status: int, gateway: httpx2.Client, server: WireServer
) -> None:
    host = f"{gateway.base_url.host}:{gateway.base_url.port}"
    sent = {name: value.format(host=host) for name, value in headers.items()}
    answer = gateway.post(PATH, data={"prompt": "a"}, files=IMAGE, headers=sent)
    assert answer.status_code == status
    assert len(server.requests) == (status == 200)
    if status == 403:
        assert error_of(answer)["code"] == "foreign_origin"


@pytest.mark.parametrize("stream", ["false", "true"])
def test_who_leaves_cancels(stream: str, server: WireServer) -> None:
    server.behaviour = stay
    with running(url=server.url) as url, client(url) as http:
        with pytest.raises(httpx2.ReadTimeout):
            http.post(PATH, data={"prompt": "a", "stream": stream}, files=IMAGE, timeout=1.0)
        assert server.cancelled.wait(10)
        left = f'flux_gateway_requests_total{{route="POST {PATH}",status="499"}} 1.0'
        assert wait_until(lambda: left in http.get("/metrics").text)


def test_who_leaves_while_sending(server: WireServer) -> None:
    def half() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + bytes(1000)
        raise ConnectionAbortedError

    with running(url=server.url) as url, client(url) as http:
        with pytest.raises(ConnectionAbortedError):
            http.post(PATH, content=half(), headers={"content-type": "multipart/form-data; boundary=x"})
        left = f'flux_gateway_requests_total{{route="POST {PATH}",status="499"}} 1.0'
        assert wait_until(lambda: left in http.get("/metrics").text)
    assert server.requests == []
