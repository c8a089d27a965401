"""One request over HTTP: `generate_stream` for one prompt, binary `infer` of the façade for several.

Triton notices that a caller left only when it has something to write. So a single prompt is always asked for with
progress, whether the caller wants to see it or not: leaving it frees the device within a few steps, and its place in
the queue when the server's next sign of life is due. Several prompts in one request are drawn to their end.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
from tritonclient.http import InferInput, InferResult
from tritonclient.utils import InferenceServerException

from fluxclient.errors import ConnectionFailed, DeadlineExceeded, FluxError, ServerError, error_from
from fluxclient.inputs.request import DATATYPES, Array, Request
from fluxclient.result import readable
from fluxclient.transport.interface import Outputs
from fluxclient.transport.silence import silent

UNARY = "{}_unary"
"""The façade of a model: one request, one response, of any number of prompts."""


class StreamCall:
    """One prompt, by server-sent events. Its connection is its own until it ends: closing it cancels the request."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: str, request: Request) -> None:
        self._session = session
        self._base_url = base_url
        self._model = model
        self._request = request
        self._response: aiohttp.ClientResponse | None = None

    def cancel(self) -> None:
        """Before the first event there is no response to close: the task that waits for it is cancelled, or the
        session closed."""
        if self._response is not None:
            self._response.close()

    async def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        url = f"{self._base_url}/v2/models/{quote(self._model)}/generate_stream"
        silence_s = self._request.silence_s
        timeout = aiohttp.ClientTimeout(self._request.timeout_s, sock_connect=silence_s, sock_read=silence_s)
        failure: FluxError | None = None
        with told(self._base_url, self._request.timeout_s, self._request.id):
            try:
                async with self._session.post(url, json=self._body(), timeout=timeout) as self._response:
                    async for text in _answers(self._response):
                        try:
                            event = self._object(text, self._response.status)
                        except FluxError as error:
                            failure = error  # raised at the end: a finished request is not cancelled
                        else:
                            with readable(self._request):
                                outputs = _outputs(event)
                            yield outputs
            except aiohttp.ServerTimeoutError:
                raise failure or silent(self._base_url, self._request, silence_s) from None
        if failure is not None:
            raise failure

    def _body(self) -> dict[str, Any]:
        values = {name: column.item() for name, column in self._request.inputs.items()}
        texts = {name: _text(name, value) for name, value in values.items() if DATATYPES[name] == "BYTES"}
        return {"id": self._request.id, **values, **texts, "base64": True, "progress": True}

    def _object(self, text: bytes, status: int) -> dict[str, Any]:
        """The object in an answer. Raises the error that it says instead."""
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status != 200 or (isinstance(answer, dict) and "error" in answer):
            said = answer.get("error", "") if isinstance(answer, dict) else text.decode(errors="replace")[:200]
            raise error_from(str(said), request_id=self._request.id, status=str(status))
        if not isinstance(answer, dict):
            raise ServerError("the answer is no JSON object", field="answer", request_id=self._request.id)
        return answer


class InferCall:
    """Several prompts, by plain `infer` with binary tensors."""

    def __init__(self, triton: Any, base_url: str, model: str, request: Request) -> None:
        self._triton = triton
        self._base_url = base_url
        self._model = model
        self._request = request
        self._answer: asyncio.Future[Any] | None = None

    def cancel(self) -> None:
        if self._answer is not None:
            self._answer.cancel()

    async def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        request = self._request
        infer = self._triton.infer(
            UNARY.format(self._model),
            [_infer_input(name, column) for name, column in request.inputs.items()],
            request_id=request.id,
            priority=max(0, request.priority),
            timeout=request.deadline_ms * 1000 if request.deadline_ms > 0 else None,  # µs
        )
        with readable(request), told(self._base_url, request.timeout_s, request.id):
            self._answer = asyncio.ensure_future(asyncio.wait_for(infer, request.timeout_s))
            result: InferResult = await self._answer
            answer = result.get_response()
            if "error" in answer:
                raise error_from(str(answer["error"]), request_id=request.id)
            found = {output["name"]: result.as_numpy(output["name"]) for output in answer["outputs"]}
        yield {**found, "event": np.full((len(request.prompts), 1), b"final", np.object_)}


@contextmanager
def told(base_url: str, timeout_s: float | None, request_id: str = "") -> Iterator[None]:
    """Failures of the libraries, as errors of ours."""
    try:
        yield
    except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
        problem = f"no answer within {timeout_s:g} s"
        raise DeadlineExceeded(problem, field="timeout", request_id=request_id) from None
    except aiohttp.ClientError as error:
        problem = f"{base_url}: {str(error) or type(error).__name__}"
        raise ConnectionFailed(problem, field="connection", request_id=request_id) from error
    except InferenceServerException as error:
        raise error_from(str(error.message()), request_id=request_id, status=str(error.status())) from error


async def _answers(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The JSON texts of a response: the data of its events, also where it is an error, or else all of it.

    Triton writes one line `data: …` for each event, as long as its pictures are.
    """
    if response.content_type != "text/event-stream":
        yield await response.read()
        return
    buffer = bytearray()
    async for chunk in response.content.iter_any():
        searched = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", searched)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            searched = 0
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _outputs(event: dict[str, Any]) -> Outputs:
    """An event of `generate_stream`, where a tensor of one element is a bare value and any other a flat list."""
    found: dict[str, Array] = {}
    for name in ("event", "info", "step", "total_steps", "seed"):
        if name in event:
            found[name] = _row(event[name])
    if "image" in event:
        files = [base64.b64decode(text, validate=True) for text in _list(event["image"])]
        found["image"] = np.array(files, np.object_).reshape(1, -1)
    if "pixels" in event:
        info = json.loads(event["info"])
        found["pixels"] = np.array(event["pixels"], np.uint8).reshape(1, -1, info["height"], info["width"], 3)
    return found


def _text(name: str, value: bytes) -> str:
    """JSON holds no bytes: the model takes a picture's file in base64 too."""
    return base64.b64encode(value).decode("ascii") if name == "image" else value.decode()


def _row(value: Any) -> Array:
    """[1, k]"""
    values = [item.encode() if isinstance(item, str) else item for item in _list(value)]
    return np.array(values, np.object_ if isinstance(values[0], bytes) else np.int64).reshape(1, -1)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _infer_input(name: str, column: Array) -> Any:
    tensor = InferInput(name, column.shape, DATATYPES[name])
    tensor.set_data_from_numpy(column)
    return tensor
