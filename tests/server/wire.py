"""Triton's protocols, as thin as they can be: what is sent is what a test says, and nothing is retried or checked."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.server.answers import Answer, event

ANSWER_S = 180.0
"""No test measures speed: whoever waits longer than this waits for ever."""

DATATYPES = {
    "prompt": "BYTES",
    "height": "INT32",
    "width": "INT32",
    "num_inference_steps": "INT32",
    "guidance_scale": "FP32",
    "seed": "INT64",
    "num_images_per_prompt": "INT32",
    "lora": "BYTES",
    "negative_prompt": "BYTES",
    "true_cfg_scale": "FP32",
    "image": "BYTES",
    "strength": "FP32",
    "output_format": "BYTES",
    "base64": "BOOL",
    "progress": "BOOL",
    "preview_interval": "INT32",
    "priority": "INT32",
    "deadline_ms": "INT32",
}
NUMPY = {
    "BYTES": np.object_,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Tensor:
    """An input exactly as given, to send what is wrong."""

    datatype: str
    array: npt.NDArray[Any]


Inputs = Mapping[str, Any]
"""By name: a value, a list of one for each row of the request, or a Tensor."""


def tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    values = value if isinstance(value, list) else [value]
    if DATATYPES[name] == "BYTES":
        values = [text.encode() if isinstance(text, str) else text for text in values]
    return Tensor(DATATYPES[name], np.array(values, NUMPY[DATATYPES[name]]).reshape(-1, 1))


def infer_inputs(protocol: Any, inputs: Inputs) -> list[Any]:
    infer_inputs = []
    for name, value in inputs.items():
        sent = tensor(name, value)
        infer_input = protocol.InferInput(name, sent.array.shape, sent.datatype)
        infer_input.set_data_from_numpy(sent.array)
        infer_inputs.append(infer_input)
    return infer_inputs


class GrpcStream:
    """One gRPC stream, with any number of requests in flight on it. Its end cancels those that have not ended."""

    def __init__(self, url: str) -> None:
        self._client = tritonclient.grpc.InferenceServerClient(url)
        self._changed = threading.Condition()
        self._answers: dict[str, Answer] = {}
        self.strays: list[str] = []
        """Errors that name no request of this stream."""
        self._client.start_stream(callback=self._take)

    def __enter__(self) -> GrpcStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_stream(cancel_requests=any(not answer.ended for answer in self._answers.values()))
        self._client.close()

    def send(self, request_id: str, inputs: Inputs, *, model: str = "flux", **options: Any) -> None:
        """`options` are those of tritonclient: priority, timeout (in µs), parameters."""
        with self._changed:
            self._answers[request_id] = Answer(request_id)
        sent = infer_inputs(tritonclient.grpc, inputs)
        self._client.async_stream_infer(model, sent, request_id=request_id, **options)

    def answer(self, request_id: str, timeout_s: float = ANSWER_S) -> Answer:
        """Waits until the request has ended."""
        self.wait_for(request_id, lambda answer: answer.ended, timeout_s)
        return self._answers[request_id]

    def wait_for(self, request_id: str, condition: Any, timeout_s: float = ANSWER_S) -> Answer:
        """Waits until `condition` holds for the answer as far as it has come."""
        with self._changed:
            done = self._changed.wait_for(lambda: condition(self._answers[request_id]), timeout_s)
            assert done, f"request {request_id} has no such answer after {timeout_s:g} s: {self._answers[request_id]}"
            return self._answers[request_id]

    def wait_for_stray(self, timeout_s: float = ANSWER_S) -> str:
        """Waits for the first error that names no request."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.strays, timeout_s), f"no such error after {timeout_s:g} s"
            return self.strays[0]

    def ended(self) -> list[Answer]:
        with self._changed:
            return [answer for answer in self._answers.values() if answer.ended]

    def _take(self, result: Any, error: InferenceServerException | None) -> None:
        with self._changed:
            if error is None:
                answer = self._answers[result.get_response().id]
                answer.events.append(event(result))
                answer.ended = answer.events[-1].kind == "final"
            else:
                self._take_error(error)
            self._changed.notify_all()

    def _take_error(self, error: InferenceServerException) -> None:
        message = str(error.message())
        named = re.search(r"\[request (.+)\]$", message) or re.match(r"\[request id: (.+?)\] ", message)
        waiting = [answer for answer in self._answers.values() if not answer.ended]
        if named and named[1] in self._answers:
            told = [self._answers[named[1]]]
        elif error.status() is not None:  # the stream itself broke
            told = waiting
        else:
            told = []
            self.strays.append(message)
        for answer in told:
            answer.error, answer.status, answer.ended = message, error.status(), True


def grpc_stream(url: str, inputs: Inputs, *, request_id: str = "alone", **options: Any) -> Answer:
    """One request on a stream of its own. Whatever error comes is its error."""
    with GrpcStream(url) as stream:
        stream.send(request_id, inputs, **options)
        stream.wait_for(request_id, lambda answer: answer.ended or stream.strays)
        answer = stream.wait_for(request_id, lambda answer: True)
        if not answer.ended:
            answer.error, answer.ended = stream.strays[0], True
        return answer


def grpc_infer(url: str, inputs: Inputs, *, model: str = "flux_unary", request_id: str = "", **options: Any) -> Answer:
    client = tritonclient.grpc.InferenceServerClient(url)
    try:
        result = client.infer(model, infer_inputs(tritonclient.grpc, inputs), request_id=request_id, **options)
    except InferenceServerException as error:
        return Answer(request_id, error=str(error.message()), status=error.status(), ended=True)
    finally:
        client.close()
    return Answer(request_id, [event(result)], ended=True)


def http_infer(url: str, inputs: Inputs, *, model: str = "flux_unary", request_id: str = "", **options: Any) -> Answer:
    client = tritonclient.http.InferenceServerClient(url, network_timeout=ANSWER_S, connection_timeout=ANSWER_S)
    try:
        result = client.infer(model, infer_inputs(tritonclient.http, inputs), request_id=request_id, **options)
    except InferenceServerException as error:
        return Answer(request_id, error=str(error.message()), status=error.status(), ended=True)
    finally:
        client.close()
    return Answer(request_id, [event(result)], ended=True)


def post(url: str, path: str, body: Mapping[str, Any] | bytes) -> tuple[int, Any]:
    """Any JSON endpoint: (status, answer)."""
    connection = connect(url)
    try:
        send(connection, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    finally:
        connection.close()


def generate(url: str, body: Mapping[str, Any] | bytes, *, model: str = "flux") -> tuple[int, dict[str, Any]]:
    status, answer = post(url, f"/v2/models/{model}/generate", body)
    assert isinstance(answer, dict), answer
    return status, answer


def generate_stream(url: str, body: Mapping[str, Any], *, model: str = "flux") -> Iterator[dict[str, Any]]:
    """The server-sent events. Closing the iterator closes the connection."""
    connection = connect(url)
    try:
        send(connection, f"/v2/models/{model}/generate_stream", body)
        response = connection.getresponse()
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))
    finally:
        connection.close()


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(url, timeout=ANSWER_S)


def send(connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any] | bytes) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, content, {"Content-Type": "application/json"})


def json_tensor(name: str, value: Any) -> dict[str, Any]:
    """An input in the JSON of plain `infer`."""
    values: Sequence[Any] = value if isinstance(value, list) else [value]
    return {"name": name, "datatype": DATATYPES[name], "shape": [len(values), 1], "data": list(values)}
