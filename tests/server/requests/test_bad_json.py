"""What is wrong with the JSON of `generate`, `generate_stream` and `infer` is told, and the next request is served."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest

from tests.server import wire
from tests.server.servers import http
from tests.server.wrong import GOOD, PROMPT, TWO, WRONG, assert_refused, assert_serves, with_prompt
from tools.triton.server import TritonServer

WRONG_OVER_GENERATE: dict[str, tuple[dict[str, Any] | bytes, str, str]] = {
    **{
        what: ({"id": "my-own-id", **with_prompt(inputs)}, cause, problem)
        for what, (inputs, cause, problem) in WRONG.items()
        if "UTF-8" not in what
    },
    "prompt not UTF-8": (b'{"id": "my-own-id", "prompt": "caf\xe9"}', "prompt", "is not UTF-8 text (byte 3)"),
    "misspelt input": (
        {"id": "my-own-id", "prompt": "fine", "steps": 20},
        "steps",
        "is not an input of this model; did you mean num_inference_steps? Inputs are base64,…",
    ),
    "misspelt parameter": (
        {"id": "my-own-id", "prompt": "fine", "parameters": {"guidence": 1}},
        "guidence",
        "is not an input of this model; did you mean guidance_scale? Inputs are base64,…",
    ),
    "parameter that looks like ours": (
        {"id": "my-own-id", "prompt": "fine", "flux_cancel_token": "0" * 32},
        "flux_cancel_token",
        "is not for callers, as any parameter that begins with flux_",
    ),
    "timeout not a number": (
        {"id": "my-own-id", "prompt": "fine", "timeout": "soon"},
        "timeout",
        "is 'soon'; must be microseconds…",
    ),
    "timeout negative": ({"id": "my-own-id", "prompt": "fine", "timeout": -5}, "timeout", "is -5; must be…"),
}


def test_what_triton_makes_of_json_as_the_readme_says(triton: TritonServer) -> None:
    good = {"prompt": PROMPT, "num_inference_steps": 2}
    status, answer = wire.generate(http(triton), {**good, "num_inference_steps": 2**32 + 2})
    assert (status, answer["total_steps"]) == (200, 2), "it wraps"
    status, answer = wire.generate(http(triton), {"parameters": {**good, "seed": 11}})
    assert (status, answer["total_steps"], answer["seed"]) == (200, 2, 11)
    status, answer = wire.generate(http(triton), {**good, "progress": True})
    assert status == 200 and "exactly 1 response" in answer["error"]
    for endpoint in ("generate", "generate_stream"):
        connection = wire.connect(http(triton))
        body = gzip.compress(json.dumps(good).encode())
        connection.request("POST", f"/v2/models/flux/{endpoint}", body, {"Content-Encoding": "gzip"})
        response = connection.getresponse()
        assert response.status == 400 and b"Unsupported content-encoding" in response.read()
        connection.close()


@pytest.mark.parametrize("model", ["flux", "flux_unary"])
@pytest.mark.parametrize("what", WRONG_OVER_GENERATE)
def test_wrong_inputs_over_generate(what: str, model: str, triton: TritonServer) -> None:
    body, cause, problem = WRONG_OVER_GENERATE[what]
    status, answer = wire.generate(http(triton), body, model=model)
    assert_refused(answer["error"], cause, problem)
    assert status == 400
    assert_serves(triton)


REFUSED_JSON: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "nothing": (b"", "The document is empty"),
    "cut off": (b'{"prompt": "fine"', "failed to parse the request JSON buffer: Missing a comma or '}'"),
    "a comma too many": (b'{"prompt": "fine",}', "failed to parse the request JSON buffer"),
    "no object": (b'["fine"]', "attempt to get members for non-object"),
    "not text": (b"\xff\xfe\x00", "failed to parse the request JSON buffer"),
    "empty object": ({}, "missing required input(s) ['prompt']"),
    "no prompts": ({"prompt": []}, "expected 1 string elements for inference input 'prompt'"),
    "prompt a number": ({"prompt": 5}, "attempt to access JSON non-string as string"),
    "prompt null": ({"prompt": None}, "attempt to access JSON non-string as string"),
    "prompt an object": ({"prompt": {"text": "fine"}}, "attempt to access JSON non-string as string"),
    "prompt twice": (b'{"prompt": "one", "prompt": "two"}', "input 'prompt' already exists in request"),
    "steps as text": ({"prompt": "fine", "num_inference_steps": "4"}, "non-signed-integer as signed-integer"),
    "steps with a fraction": ({"prompt": "fine", "num_inference_steps": 4.5}, "non-signed-integer as signed-integer"),
    "steps null": ({"prompt": "fine", "num_inference_steps": None}, "non-signed-integer as signed-integer"),
    "guidance as text": ({"prompt": "fine", "guidance_scale": "3.5"}, "attempt to access JSON non-number as double"),
    "guidance beyond float": (b'{"prompt": "fine", "guidance_scale": 1e999}', "Number too big to be stored in double"),
    "seed beyond 63 bits": ({"prompt": "fine", "seed": 2**63}, "non-signed-integer as signed-integer"),
    "seed with a fraction": ({"prompt": "fine", "seed": 1.5}, "non-signed-integer as signed-integer"),
    "base64 as text": ({"prompt": "fine", "base64": "yes"}, "attempt to access JSON non-boolean as boolean"),
    "format a number": ({"prompt": "fine", "output_format": 1}, "attempt to access JSON non-string as string"),
    "fewer seeds than prompts": ({"prompt": TWO, "seed": 1}, "batch size does not match other inputs"),
    "too many prompts": ({"prompt": ["fine"] * 9}, "inference request batch-size must be <= 8"),
    "unknown list": ({"prompt": "fine", "steps": [4]}, "parameter 'steps' has invalid type"),
    "unknown null": ({"prompt": "fine", "steps": None}, "parameter 'steps' has invalid type"),
    "id a number": ({"prompt": "fine", "id": 7}, "attempt to access JSON non-string as string"),
}


@pytest.mark.parametrize("model", ["flux", "flux_unary"])
@pytest.mark.parametrize("what", REFUSED_JSON)
def test_json_that_triton_itself_refuses(what: str, model: str, triton: TritonServer) -> None:
    body, text = REFUSED_JSON[what]
    status, answer = wire.generate(http(triton), body, model=model)
    assert text in answer["error"]
    assert status in (400, 500)
    assert_serves(triton)


def test_an_error_is_an_event_of_generate_stream(triton: TritonServer) -> None:
    (event,) = wire.generate_stream(http(triton), {"id": "my-own-id", "prompt": "", "progress": True})
    assert_refused(event["error"], "prompt", f"is 0 characters long; {PROMPT}")
    assert_serves(triton)


def test_progress_is_refused_by_the_facade_over_generate(triton: TritonServer) -> None:
    status, answer = wire.generate(http(triton), {**GOOD, "progress": True}, model="flux_unary")
    assert status == 400
    assert answer["error"].startswith("FLUX_INVALID_ARGUMENT: progress: ")
    assert_serves(triton)


INFER_JSON: dict[str, tuple[Any, str]] = {
    "cut off": (b'{"inputs": [', "failed to parse the request JSON buffer"),
    "no inputs": ({}, "Unable to parse 'inputs'"),
    "no input": ({"inputs": []}, "missing required input(s) ['prompt']"),
    "no data": ({"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1, 1]}]}, "But no field is set"),
    "less data than its shape": (
        {"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [2, 1], "data": ["one"]}]},
        "expected 2 string elements for inference input 'prompt'",
    ),
    "data of another type": (
        {
            "inputs": [
                wire.json_tensor("prompt", "fine"),
                {"name": "height", "datatype": "INT32", "shape": [1, 1], "data": ["x"]},
            ]
        },
        "non-signed-integer as signed-integer",
    ),
    "unknown input": (
        {
            "inputs": [
                wire.json_tensor("prompt", "fine"),
                {"name": "steps", "datatype": "INT32", "shape": [1, 1], "data": [4]},
            ]
        },
        "unexpected inference input 'steps' for model 'flux_unary'",
    ),
    "unknown output": (
        {"inputs": [wire.json_tensor("prompt", "fine")], "outputs": [{"name": "picture"}]},
        "unexpected inference output 'picture' for model 'flux_unary'",
    ),
}


@pytest.mark.parametrize("what", INFER_JSON)
def test_json_of_infer_that_triton_itself_refuses(what: str, triton: TritonServer) -> None:
    body, text = INFER_JSON[what]
    status, answer = wire.post(http(triton), "/v2/models/flux_unary/infer", body)
    assert text in answer["error"]
    assert status in (400, 500)
    assert_serves(triton)


BAD_TEXT: dict[str, tuple[str, dict[str, Any], str]] = {
    "id of infer": ("flux_unary/infer", {"id": "caf!"}, "prompt: .*"),
    "parameter of infer": (
        "flux_unary/infer",
        {"parameters": {"x": "caf!"}},
        r"parameters: must be UTF-8 text, as must the id \(.*\)",
    ),
    "id of generate": ("flux/generate", {"id": "caf!"}, r"parameters: must be UTF-8 text, as must the id \(.*\)"),
    "parameter of generate": ("flux/generate", {"x": "caf!"}, r"parameters: must be UTF-8 text, as must the id \(.*\)"),
}


@pytest.mark.parametrize("what", BAD_TEXT)
def test_an_id_or_parameter_that_is_not_utf8(what: str, triton: TritonServer) -> None:
    path, fields, problem = BAD_TEXT[what]
    prompt = {"inputs": [wire.json_tensor("prompt", " ")]} if path.endswith("infer") else {"prompt": " "}
    raw = json.dumps({**fields, **prompt}).encode().replace(b"!", b"\xe9")
    status, answer = wire.post(http(triton), f"/v2/models/{path}", raw)
    assert status == 400, answer
    assert re.fullmatch(rf"FLUX_INVALID_ARGUMENT: {problem} \[request [0-9a-f]{{12}}\]", answer["error"]), answer
    assert_serves(triton)


def test_only_the_outputs_that_were_asked_for(triton: TritonServer) -> None:
    inputs = [wire.json_tensor(name, value) for name, value in GOOD.items()]
    body = {"inputs": inputs, "outputs": [{"name": "seed"}]}
    status, answer = wire.post(http(triton), "/v2/models/flux_unary/infer", body)
    assert status == 200, answer
    assert [output["name"] for output in answer["outputs"]] == ["seed"]
