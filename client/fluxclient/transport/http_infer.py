"""Several prompts in one request over HTTP, by plain `infer` of the façade with binary tensors.

Triton notices that a caller left only when it has something to write, so they are drawn to their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from tritonclient.http import InferInput, InferResult

from fluxclient.errors import Cancelled, error_from
from fluxclient.inputs.options import DATATYPES
from fluxclient.inputs.request import Array, Request
from fluxclient.result import Outputs, readable
from fluxclient.transport.http_errors import told

UNARY = "{}_unary"
"""The façade of a model: one request, one response, of any number of prompts."""


class InferCall:
    def __init__(self, triton: Any, base_url: str, model: str, request: Request) -> None:
        self._triton = triton
        self._base_url = base_url
        self._model = model
        self._request = request
        self._answer: asyncio.Future[Any] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
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
            try:
                result: InferResult = await self._answer
            except asyncio.CancelledError:
                if self._cancelled:  # and not the task that waits here
                    raise Cancelled("was cancelled", field="client", request_id=request.id) from None
                raise
            answer = result.get_response()
            if "error" in answer:
                raise error_from(str(answer["error"]), request_id=request.id)
            found = {output["name"]: result.as_numpy(output["name"]) for output in answer["outputs"]}
        yield {**found, "event": np.full((len(request.prompts), 1), b"final", np.object_)}


def _infer_input(name: str, column: Array) -> Any:
    tensor = InferInput(name, column.shape, DATATYPES[name])
    tensor.set_data_from_numpy(column)
    return tensor
