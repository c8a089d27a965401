"""One prompt over HTTP, by `generate_stream` and its server-sent events.

Triton notices that a caller left only when it has something to write. So it is always asked for with progress, whether
the caller wants to see it or not: leaving frees the device within a few steps, and the place in the queue when the
server's next sign of life is due.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np

from fluxclient.errors import Cancelled, FluxError, ServerError, error_from
from fluxclient.inputs.options import DATATYPES
from fluxclient.inputs.request import Array, Request
from fluxclient.result import Outputs, readable
from fluxclient.transport.http_errors import told
from fluxclient.transport.silence import silent


class StreamCall:
    """The connection is its own until it ends: closing it cancels the request."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: str, request: Request) -> None:
        self._session = session
        self._base_url = base_url
        self._model = model
        self._request = request
        self._response: aiohttp.ClientResponse | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Before the first event there is no response to close: the task that waits for it is cancelled, or the
        session closed."""
        self._cancelled = True
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
            except asyncio.CancelledError:
                if self._cancelled:  # with the session, and not the task that waits here
                    raise Cancelled("was cancelled", field="client", request_id=self._request.id) from None
                raise
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
