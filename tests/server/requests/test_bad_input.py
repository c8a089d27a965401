"""Whatever is wrong with a request, its caller is told what and what is allowed, and the next request is served."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.server import wire
from tests.server.answers import Answer
from tests.server.servers import grpc, http
from tests.server.wire import Tensor
from tests.server.wrong import GOOD, SEEDS, TWO, WRONG, assert_refused, assert_serves, with_prompt
from tools.triton.server import TritonServer


def grpc_stream(triton: TritonServer, inputs: wire.Inputs, **options: Any) -> Answer:
    return wire.grpc_stream(grpc(triton), inputs, request_id="my-own-id", **options)


def grpc_infer(triton: TritonServer, inputs: wire.Inputs, **options: Any) -> Answer:
    return wire.grpc_infer(grpc(triton), inputs, request_id="my-own-id", **options)


def http_infer(triton: TritonServer, inputs: wire.Inputs, **options: Any) -> Answer:
    return wire.http_infer(http(triton), inputs, request_id="my-own-id", **options)


Ask = Callable[..., Answer]
ASKS: list[Ask] = [grpc_stream, grpc_infer, http_infer]
STATUS = {grpc_stream: None, grpc_infer: "StatusCode.INVALID_ARGUMENT", http_infer: "400"}
"""An error on a stream has no status in Triton's protocol."""


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("what", WRONG)
def test_wrong_inputs(what: str, ask: Ask, triton: TritonServer) -> None:
    inputs, cause, problem = WRONG[what]
    answer = ask(triton, with_prompt(inputs))
    assert_refused(answer.error, cause, problem)
    assert answer.status == STATUS[ask]
    assert answer.events == []
    assert_serves(triton)


STREAM_ONLY: dict[str, tuple[dict[str, Any], str, str]] = {
    "preview interval negative": ({"preview_interval": -1}, "preview_interval", "is -1; must be an integer…"),
    "preview interval too high": ({"preview_interval": 1001}, "preview_interval", "is 1001; must be an integer…"),
    "progress differs": ({"prompt": TWO, "progress": [True, False]}, "progress", "differs between rows (True, False)…"),
    "intervals differ": (
        {"prompt": TWO, "preview_interval": [1, 2]},
        "preview_interval",
        "differs between rows (1, 2)…",
    ),
}


@pytest.mark.parametrize("what", STREAM_ONLY)
def test_wrong_inputs_of_streams(what: str, triton: TritonServer) -> None:
    inputs, cause, problem = STREAM_ONLY[what]
    assert_refused(grpc_stream(triton, with_prompt(inputs)).error, cause, problem)
    assert_serves(triton)


def byte_tensor(*shape: int) -> Tensor:
    return Tensor("BYTES", np.full(shape, b"a prompt", np.object_))


REFUSED_BY_TRITON: dict[str, tuple[dict[str, Any], str]] = {
    "nothing at all": ({}, "missing required input(s) ['prompt']"),
    "steps of another type": (
        {"prompt": "fine", "num_inference_steps": Tensor("INT64", np.array([[4]], np.int64))},
        "inference input 'num_inference_steps' data-type is 'INT64', but model 'MODEL' expects 'INT32'",
    ),
    "guidance of another type": (
        {"prompt": "fine", "guidance_scale": Tensor("INT32", np.array([[4]], np.int32))},
        "inference input 'guidance_scale' data-type is 'INT32', but model 'MODEL' expects 'FP32'",
    ),
    "seed of another type": (
        {"prompt": "fine", "seed": Tensor("BYTES", np.array([[b"4"]], np.object_))},
        "inference input 'seed' data-type is 'BYTES', but model 'MODEL' expects 'INT64'",
    ),
    "prompt of another type": (
        {"prompt": Tensor("INT32", np.array([[4]], np.int32))},
        "inference input 'prompt' data-type is 'INT32', but model 'MODEL' expects 'BYTES'",
    ),
    "no batch dimension": ({"prompt": byte_tensor(1)}, "unexpected shape for input 'prompt'"),
    "two texts in a row": ({"prompt": byte_tensor(1, 2)}, "unexpected shape for input 'prompt'"),
    "a dimension too many": ({"prompt": byte_tensor(1, 1, 1)}, "unexpected shape for input 'prompt'"),
    "no rows": ({"prompt": byte_tensor(0, 1)}, "expected 1 string elements for inference input 'prompt'"),
    "too many rows": ({"prompt": ["fine"] * 9}, "inference request batch-size must be <= 8"),
    "fewer seeds than prompts": ({"prompt": TWO, "seed": [1]}, "input 'prompt' batch size does not match other inputs"),
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("what", REFUSED_BY_TRITON)
def test_what_triton_itself_refuses(what: str, ask: Ask, triton: TritonServer) -> None:
    inputs, text = REFUSED_BY_TRITON[what]
    answer = ask(triton, inputs)
    assert answer.error is not None
    assert text.replace("MODEL", "flux" if ask is grpc_stream else "flux_unary") in answer.error
    assert answer.status == STATUS[ask]
    assert_serves(triton)


@pytest.mark.parametrize("ask", ASKS)
def test_a_misspelt_parameter(ask: Ask, triton: TritonServer) -> None:
    answer = ask(triton, GOOD, parameters={"stepz": 20})
    assert answer.error is not None
    assert answer.error.startswith(
        "FLUX_INVALID_ARGUMENT: stepz: is not an input of this model; did you mean num_inference_steps? Inputs are "
    )
    assert answer.error.endswith(", width [request my-own-id]")
    assert_serves(triton)


@pytest.mark.parametrize("ask", [grpc_infer, http_infer])
@pytest.mark.parametrize("name", ["progress", "preview_interval"])
def test_the_facade_has_no_progress(name: str, ask: Ask, triton: TritonServer) -> None:
    answer = ask(triton, {**GOOD, name: 1})
    assert answer.error is not None
    assert f"unexpected inference input '{name}' for model 'flux_unary'" in answer.error
    assert_serves(triton)


def test_a_decoupled_model_is_not_for_plain_infer(triton: TritonServer) -> None:
    over_grpc = wire.grpc_infer(grpc(triton), GOOD, model="flux")
    assert over_grpc.status == "StatusCode.UNIMPLEMENTED"
    assert "doesn't support models with decoupled transaction policy" in str(over_grpc.error)
    over_http = wire.http_infer(http(triton), GOOD, model="flux")
    assert over_http.status == "501"
    assert "doesn't support models with decoupled transaction policy" in str(over_http.error)
    assert_serves(triton)


def test_an_id_is_made_up_where_there_is_none(triton: TritonServer) -> None:
    message = wire.grpc_infer(grpc(triton), {"prompt": ""}).error
    assert message is not None and re.search(r" \[request [0-9a-f]{12}\]$", message)


def test_a_bad_request_between_good_ones_on_one_stream(triton: TritonServer) -> None:
    """The stream goes on, and each answer finds its request."""
    with wire.GrpcStream(grpc(triton)) as stream:
        for n in range(5):
            stream.send(f"good {n}", {**GOOD, "seed": n})
            stream.send(f"bad {n}", {**GOOD, "seed": -1 - n})
        for n in range(5):
            assert stream.answer(f"good {n}").seeds == [[n]]
            assert_refused(stream.answer(f"bad {n}").error, "seed", f"is {-1 - n}; {SEEDS}", f"bad {n}")
        assert stream.strays == []
