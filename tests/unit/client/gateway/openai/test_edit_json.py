"""POST /v1/images/edits as JSON: the picture is in a data URL."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import pytest

from tests.unit.client.fakes.answers import picture
from tests.unit.client.fakes.command import inputs_of
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.model_behaviours import draw_with_previews, fail_with
from tests.unit.client.gateway.running import client, error_of, events, running

PATH = "/v1/images/edits"
FILE = picture("green")
TEXT = base64.b64encode(FILE).decode()
URL = f"data:image/png;base64,{TEXT}"


@pytest.mark.parametrize(
    "image",
    [
        {"images": [{"image_url": URL}]},
        {"images": [URL]},
        {"images": URL, "image": None},
        {"image": URL},
        {"image": [URL]},
        {"image": {"image_url": URL}},
        {"image": f"DATA:application/octet-stream;base64,{TEXT[:40]}\r\n {TEXT[40:]}\n"},
    ],
)
def test_where_the_picture_may_be(image: dict[str, Any], gateway: httpx2.Client, server: WireServer) -> None:
    answer = gateway.post(PATH, json={"prompt": "a", "mask": None, **image})
    assert answer.status_code == 200, answer.text
    assert inputs_of(server.requests[0])["image"] == FILE


def test_everything_else_is_as_in_a_form(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(3)
    body = {"prompt": "a", "images": [{"image_url": URL}], "strength": 0.5, "n": 2, "seed": 4, "stream": True}
    with gateway.stream("POST", PATH, json=body) as response:
        told = [event["type"] for event in events(response)]
    assert told == ["image_edit.completed"] * 2
    sent = inputs_of(server.requests[0])
    assert (sent["strength"], sent["num_images_per_prompt"], sent["seed"]) == (0.5, 2, 4)


IMAGE = {"images": [{"image_url": URL}]}

WRONG: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "none": ({}, "missing_required_parameter", "images", "images: is missing"),
    "empty": ({"images": []}, "invalid_value", "images", "images: holds 0 pictures; must be one"),
    "two": ({"images": [URL, URL]}, "invalid_value", "images", "images: holds 2 pictures; must be one"),
    "both": ({**IMAGE, "image": URL}, "invalid_value", "images", "images: is there, and so is image; must be one"),
    "file": ({"images": [{"file_id": "file-1"}]}, "invalid_value", "images", "images: names a file_id, and no files"),
    "object": ({"images": [{"url": URL}]}, "invalid_value", "images", "images: has the keys ['url']; must be like {"),
    "number": ({"image": 5}, "invalid_value", "image", "image: is 5; must be a data URL"),
    "url": ({"image": "https://a.example/b.png"}, "invalid_value", "image", "image: is 'https://a.example/b.png', and"),
    "path": ({"image": "file:///etc/passwd"}, "invalid_value", "image", "image: is 'file:///etc/passwd'; must be a da"),
    "base64": ({"image": TEXT}, "invalid_value", "image", "image: is 'iVBOR"),
    "text": ({"image": "data:text/plain,hello"}, "invalid_value", "image", "image: is 'data:text/plain,hello'; must"),
    "broken": ({"image": URL[:-1]}, "invalid_value", "image", "image: is 'data:image/png;base64,"),
    "no ASCII": ({"image": URL + "é"}, "invalid_value", "image", "image: is 'data:image/png;base64,"),
    "other": ({"image": "data:image/gif;base64,R0lG"}, "invalid_value", "images", "images: is 3 bytes that are no PNG"),
    "mask": ({**IMAGE, "mask": {"image_url": URL}}, "invalid_value", "mask", "mask: is not supported: "),
    "unknown": ({**IMAGE, "sede": 7}, "unknown_parameter", "sede", "'sede': there is no such parameter"),
    "type": ({**IMAGE, "n": "2"}, "invalid_value", "n", "n: is '2'; input should be a valid integer"),
    "strength": ({**IMAGE, "strength": 1.5}, "invalid_value", "strength", "strength: is 1.5; input should be less"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, alone: httpx2.Client) -> None:
    body, code, param, words = WRONG[name]
    answer = alone.post(PATH, json={"prompt": "a", **body})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["message"].startswith(words)


def test_a_fault_that_the_server_finds_in_the_picture(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with("FLUX_INVALID_ARGUMENT: image: is broken [request r]")
    error = error_of(gateway.post(PATH, json={"prompt": "a", **IMAGE}))
    assert (error["param"], error["message"]) == ("images", "images: is broken [request r]")


def test_what_is_too_large(server: WireServer) -> None:
    """The picture may be as large as in a form, and its base64 is larger by a third."""
    with running(url=server.url, max_image_bytes=6000, max_body_bytes=1000) as url, client(url) as http:

        def ask(size: int) -> Any:
            file = FILE + bytes(size - len(FILE))
            return http.post(PATH, json={"prompt": "a", "image": f"data:;base64,{base64.b64encode(file).decode()}"})

        server.behaviour = fail_with("FLUX_INVALID_ARGUMENT: image: reached the server")
        assert "reached the server" in error_of(ask(6000))["message"]
        picture = ask(6001)
        assert (picture.status_code, error_of(picture)["code"], error_of(picture)["param"]) == (
            413,
            "body_too_large",
            "image",
        )
        body = ask(7000)
        assert (body.status_code, error_of(body)["message"][-32:]) == (413, " bytes; must be at most 9000 bytes"[-32:])
    assert len(server.requests) == 1
