"""Every error is an answer in OpenAI's form."""

from __future__ import annotations

import logging
import re
from typing import Any

import httpx2
import pytest

from fluxclient import errors
from fluxclient.errors import FluxError
from fluxclient.gateway.errors import FAULTS
from fluxengine.errors import ERRORS
from tests.unit.client.fakes.command import stay, wait_until
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.model_behaviours import fail_with
from tests.unit.client.gateway.running import client, error_of, running

PATH = "/v1/images/generations"
JSON = {"content-type": "application/json"}


def test_every_code_has_a_status() -> None:
    of_client = {code for kind in FluxError.__subclasses__() for code in kind.codes}
    assert set(FAULTS) == of_client
    assert {error.code for error in ERRORS} <= set(FAULTS)
    assert errors.ServerError.codes[0] in FAULTS


OF_SERVER: dict[str, tuple[str, int, str, str | None]] = {
    "invalid": ("FLUX_INVALID_ARGUMENT: num_images_per_prompt: is 9; must be less", 400, "invalid_value", "n"),
    "size": ("FLUX_INVALID_ARGUMENT: height: is 9; must be more", 400, "invalid_value", "size"),
    "not found": ("FLUX_NOT_FOUND: lora: there is none", 404, "not_found", "lora"),
    "model": ("Request for unknown model: 'flux' is not found", 503, "model_not_ready", None),
    "overloaded": ("FLUX_OVERLOADED: queue: is full", 429, "overloaded", None),
    "late": ("FLUX_DEADLINE_EXCEEDED: deadline_ms: is over", 504, "deadline_exceeded", None),
    "cancelled": ("FLUX_CANCELLED: model: is unloaded", 503, "cancelled", None),
    "memory": ("FLUX_OUT_OF_MEMORY: device: is full", 500, "out_of_memory", None),
    "internal": ("FLUX_INTERNAL: step: broke", 500, "internal_error", None),
    "lost device": ("FLUX_INTERNAL: device: failed and is being restarted", 503, "unavailable", None),
    "stopping": ("Server is stopping, scheduler for model has stopped", 503, "unavailable", None),
    "newer": ("FLUX_BORED: server: does not like it", 500, "internal_error", None),
}


@pytest.mark.parametrize("name", OF_SERVER)
def test_errors_of_the_server(name: str, gateway: httpx2.Client, server: WireServer) -> None:
    message, status, code, param = OF_SERVER[name]
    server.behaviour = fail_with(f"{message} [request abc]")
    answer = gateway.post(PATH, json={"prompt": "a"})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert message.rpartition(": ")[2] in error["message"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert (answer.headers.get("x-should-retry") == "false") == (status == 504)


CALLED: dict[str, tuple[str, str]] = {
    "height: is 9; must be more": ("size", "size: the second number is 9; must be more"),
    "width: is 9; must be more": ("size", "size: the first number is 9; must be more"),
    "num_images_per_prompt: is 9; must be less": ("n", "n: is 9; must be less"),
    "preview_interval: is 9; must be less": ("partial_images", "partial_images: is 9; must be less"),
    "seed: is 9; num_images_per_prompt is 2": ("seed", "seed: is 9; n is 2"),
    "lora: needs more height": ("lora", "lora: needs more height"),
}


@pytest.mark.parametrize("said", CALLED)
def test_a_message_names_what_the_caller_called_it(said: str, gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with(f"FLUX_INVALID_ARGUMENT: {said} [request abc]")
    param, message = CALLED[said]
    error = error_of(gateway.post(PATH, json={"prompt": "a"}))
    assert (error["param"], error["message"]) == (param, f"{message} [request abc]")
    replaced = error_of(gateway.post("/generate", json={"prompt": "a"}))
    assert (replaced["param"], replaced["message"]) == (said.partition(":")[0], f"{said} [request abc]")


def test_messages_are_short(gateway: httpx2.Client, server: WireServer) -> None:
    """Whatever they quote, and with the request's id all the same."""
    server.behaviour = fail_with(f"FLUX_INVALID_ARGUMENT: lora: {'has too much ' * 5000} [request abc]")
    long = "x" * 20_000
    for answer in (
        gateway.post(PATH, json={"prompt": "a"}),
        gateway.post(PATH, json={"prompt": "a", "model": long}),
        gateway.post(PATH, json={"prompt": "a", long: 1}),
        gateway.post(PATH, json={"prompt": "a", "size": long}),
        gateway.post(PATH, json={"prompt": "a", "quality": long}),
        gateway.post("/v1/images/edits", json={"prompt": "a", "images": [{"image_url": f"https://{long}"}]}),
        gateway.post("/v1/images/edits", json={"prompt": "a", "images": [{long: 1}]}),
        gateway.post("/v1/images/edits", data={"prompt": "a"}, files={"image": long.encode()}),
        gateway.post("/v1/images/edits", files={"image": b""}, headers={"origin": f"https://{long}"}),
        gateway.post(f"/{long}", json={}),
        gateway.get(f"/jobs/{long}"),
        gateway.get(f"/v1/models/{long}"),
        gateway.get(f"/v1/images/files/{long}"),
        gateway.request("X" * 2000, PATH),
    ):
        error = error_of(answer)
        assert 400 <= answer.status_code < 500 and len(error["message"]) <= 500
        assert len(error["param"] or "") <= 80
    first = error_of(gateway.post(PATH, json={"prompt": "a"}))["message"]
    assert first.startswith("lora: has too much") and first.endswith("... [request abc]")


def test_nobody_behind_the_gateway(alone: httpx2.Client) -> None:
    answer = alone.post(PATH, json={"prompt": "a"})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "connection_failed")


def test_what_a_proxy_before_the_server_ended_is_not_worth_sending_again(
    gateway: httpx2.Client, server: WireServer
) -> None:
    server.behaviour = fail_with("upstream request timeout")
    answer = gateway.post(PATH, json={"prompt": "a"})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "connection_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


def test_a_deadline_of_ours(server: WireServer) -> None:
    server.behaviour = stay
    with running(url=server.url, retries=0, timeout_s=0.2) as url, client(url) as http:
        answer = http.post(PATH, json={"prompt": "a"})
        assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")


BAD_VALUES: dict[str, tuple[str, str]] = {
    '{"prompt": 5}': ("prompt", "prompt: is 5; input should be a valid string"),
    "{}": ("prompt", "prompt: is missing"),
    '{"prompt": "\\ud800"}': ("prompt", "prompt: is '\\ud800'; character 0 cannot be written as UTF-8"),
    '{"prompt": "a", "n": "2"}': ("n", "n: is '2'; input should be a valid integer"),
    '{"prompt": "a", "n": true}': ("n", "n: is True; input should be a valid integer"),
    '{"prompt": "a", "n": 1.5}': ("n", "n: is 1.5; "),
    '{"prompt": "a", "size": "100"}': ("size", "size: is '100'; must be WIDTHxHEIGHT"),
    '{"prompt": "a", "size": "16x-16"}': ("size", "size: is '16x-16'; must be"),
    '{"prompt": "a", "response_format": "file"}': ("response_format", "response_format: is 'file'; "),
    '{"prompt": "a", "output_format": "gif"}': ("output_format", "output_format: is 'gif'; "),
    '{"prompt": "a", "output_compression": 50}': ("output_compression", "output_compression: is 50; must be 100"),
    '{"prompt": "a", "output_format": "jpeg", "output_compression": 101}': (
        "output_compression",
        "output_compression: is 101; input should be less than or equal to 100",
    ),
    '{"prompt": "a", "background": "transparent"}': ("background", "background: is 'transparent'; "),
    '{"prompt": "a", "quality": "best"}': ("quality", "quality: is 'best'; "),
    '{"prompt": "a", "stream": true, "partial_images": 4}': ("partial_images", "partial_images: is 4; "),
    '{"prompt": "a", "partial_images": 2}': ("partial_images", "partial_images: needs stream: true"),
    '{"prompt": "a", "progress": true}': ("progress", "progress: needs stream: true"),
    '{"prompt": "a", "stream": true, "response_format": "url"}': ("response_format", "response_format: is 'url'; "),
    '{"prompt": "a", "guidance_scale": NaN}': ("guidance_scale", "guidance_scale: is nan; "),
    '{"prompt": "a", "guidance_scale": 1e999}': ("guidance_scale", "guidance_scale: is inf; "),
    '{"prompt": "a", "seed": 9223372036854775808}': ("seed", "seed: is 9223372036854775808; input should"),
    '{"prompt": "a", "num_inference_steps": 4294967296}': ("num_inference_steps", "num_inference_steps: is 4294967296"),
    f'{{"prompt": "a", "stream": true, "partial_images": 1, "num_inference_steps": 1{"0" * 400}}}': (
        "num_inference_steps",
        "num_inference_steps: is 1000",
    ),
    '{"prompt": "a", "negative_prompt": 5}': ("negative_prompt", "negative_prompt: is 5; input should be a valid"),
    '{"prompt": "a", "negative_prompt": "\\ud800"}': ("negative_prompt", "negative_prompt: is '\\ud800'; char"),
    '{"prompt": "a\\u0000b"}': (
        "prompt",
        "prompt: is 'a\\x00b'; character 1 is a control character; allowed are tabs and",
    ),
    '{"prompt": " \\n"}': ("prompt", "prompt: is ' \\n'; must be 1 to 4096 characters that are not all blank"),
    f'{{"prompt": "{"a" * 4097}"}}': ("prompt", "prompt: is 'aaa"),
    '{"prompt": "a", "lora": "a\\u001bb"}': ("lora", "lora: is 'a\\x1bb'; character 1 is a control character"),
    f'{{"prompt": "a", "lora": "{"a" * 1025}"}}': ("lora", "lora: is 'aaa"),
    '{"prompt": "a", "n": 0}': ("n", "n: is 0; input should be greater than or equal to 1"),
    '{"prompt": "a", "n": 1000000}': ("n", "n: is 1000000; input should be less than or equal to 64"),
    '{"prompt": "a", "size": "16x99999"}': ("size", "size: is '16x99999'; both numbers must be 1 to 8192"),
    '{"prompt": "a", "seed": -1}': ("seed", "seed: is -1; "),
    '{"prompt": "a", "guidance_scale": -0.1}': ("guidance_scale", "guidance_scale: is -0.1; "),
    '{"prompt": "a", "true_cfg_scale": 31}': ("true_cfg_scale", "true_cfg_scale: is 31; "),
    '{"prompt": "a", "priority": 5}': ("priority", "priority: is 5; "),
    '{"prompt": "a", "deadline_ms": 2147483648}': ("deadline_ms", "deadline_ms: is 2147483648; "),
    '{"prompt": "a", "image": "a"}': ("image", "'image': there is no such parameter"),
}


@pytest.mark.parametrize("body", BAD_VALUES)
def test_a_bad_value_is_named(body: str, alone: httpx2.Client) -> None:
    param, message = BAD_VALUES[body]
    answer = alone.post(PATH, content=body, headers=JSON)
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(message)


def test_what_people_paste_is_drawn(gateway: httpx2.Client) -> None:
    assert gateway.post(PATH, json={"prompt": "a cat\r\n\ton\x0ba mat\x0c\u2028\u200d🐈"}).status_code == 200


def test_the_replaced_routes_let_through_no_more(alone: httpx2.Client) -> None:
    bodies: dict[str, dict[str, Any]] = {"/generate": {"prompt": "a"}, "/batch-generate": {"prompts": ["a"]}}
    for name, value in {
        "height": 8193,
        "width": 0,
        "num_inference_steps": 1001,
        "guidance_scale": 31,
        "seed": 2**63,
        "lora": "a\0",
        "negative_prompt": "a" * 4097,
        "true_cfg_scale": 0.5,
    }.items():
        for path, body in bodies.items():
            answer = alone.post(path, json={**body, name: value})
            assert (answer.status_code, error_of(answer)["param"]) == (400, name)
    for path in ("/generate", "/async-generate"):
        assert error_of(alone.post(path, json={"prompt": "a\0"}))["param"] == "prompt"
    assert error_of(alone.post("/batch-generate", json={"prompts": ["a", "b\0"]}))["param"] == "prompts.1"


def test_an_unknown_key_is_named_before_anything_else(alone: httpx2.Client) -> None:
    for path in (PATH, "/generate", "/batch-generate", "/async-generate"):
        answer = alone.post(path, json={"prompt": 5, "promts": "a"})
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["param"]) in (
            (400, "unknown_parameter", "promts"),
            (400, "unknown_parameter", "prompt"),  # batch-generate has prompts
        )


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"prompt": "\xff"}',
    "UTF-16": '{"prompt": "a"'.encode("utf-16"),
    "a list": b"[]",
    "null": b"null",
    "a text": b'"prompt"',
    "deep": b"[" * 100_000,
    "endless number": b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    "no text as key": b'{"prompt": "a", "images": "data:;base64,", "\\ud800": 1}',
}


@pytest.mark.parametrize("path", [PATH, "/v1/images/edits"])
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_none(name: str, path: str, alone: httpx2.Client) -> None:
    answer = alone.post(path, content=BAD_BODIES[name], headers=JSON)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_json", None)
    assert error["message"].startswith("body: ")


@pytest.mark.parametrize("path", [PATH, "/v1/images/edits", "/generate", "/batch-generate", "/async-generate"])
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "text/json"])
def test_json_that_is_not_said_to_be_json(kind: str | None, path: str, alone: httpx2.Client) -> None:
    """Other sites' pages can make a browser send forms, plain text and what has no type, but no application/json."""
    answer = alone.post(path, content=b'{"prompt": "a"}', headers={"content-type": kind} if kind else {})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (415, "unsupported_media_type", None)
    said = f"body: has Content-Type {kind!r}; must be " if kind else "body: has no Content-Type; must be "
    assert error["message"].startswith(said) and error["message"].endswith("application/json")


def test_json_in_other_words(gateway: httpx2.Client) -> None:
    kind = "Application/JSON; charset=utf-8"
    assert gateway.post(PATH, content=b'{"prompt": "a"}', headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large(announced: bool, server: WireServer) -> None:
    content: Any = b"x" * 5000 if announced else iter([b"x" * 1000] * 5)
    with running(url=server.url, max_body_bytes=4000) as url, client(url) as http:
        answer = http.post(PATH, content=content, headers=JSON)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (413, "body_too_large")
        assert error["message"].endswith("must be at most 4000 bytes")


def test_what_is_not_there(alone: httpx2.Client) -> None:
    missing, wrong = alone.get("/v1/images"), alone.get(PATH)
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_a_fault_of_the_gateway(
    gateway: httpx2.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers with the request's id and tells the log all, the caller nothing."""

    def break_down(*_: object) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr("fluxclient.gateway.openai.routes.base64_text", break_down)
    answer = gateway.post(PATH, json={"prompt": "a"}, headers={"x-request-id": "mine"})
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] == "mine"
    assert "secret" not in answer.text
    assert "request mine failed" in caplog.text and "the secret cause" in caplog.text


def test_request_ids(gateway: httpx2.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fluxclient.gateway")
    kept = gateway.post(PATH, json={"prompt": "a secret", "user": "bo\nb"}, headers={"x-request-id": "My-id_1.2"})
    assert kept.headers["x-request-id"] == "My-id_1.2"
    assert wait_until(lambda: "My-id_1.2" in caplog.text)  # it is written when the answer has ended
    line = next(record.getMessage() for record in caplog.records if "My-id_1.2" in record.getMessage())
    assert re.fullmatch(
        r"POST /v1/images/generations 200 \d+ ms id=My-id_1\.2 caller='127\.0\.0\.1' user='bo\\nb' flux=[0-9a-f]{32}",
        line,
    )
    for bad in (b"a b", b"x" * 65, "é".encode()):
        answer = gateway.get("/nowhere", headers={b"x-request-id": bad})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
