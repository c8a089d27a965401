"""How an answer leaves, with stand-ins for Triton's own classes."""

from __future__ import annotations

import importlib
import sys
import weakref
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fluxengine.request import Limits, parse_request
from fluxengine.ticket import Completed, Progress

LIMITS = Limits(
    default_size=(64, 64),
    max_size=(64, 64),
    default_steps=4,
    max_steps=9,
    default_guidance=3.5,
    max_images=2,
    max_loras=8,
)
PICTURE = np.zeros((64, 64, 3), np.uint8)
FINAL = 1


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name = name
        self.array = array


class InferenceResponse:
    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = list(tensors)


class PruningSender:
    """Drops what nobody asked for while it sends, as Triton does, and notes what is freed by that."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.finals = 0
        self.freed: list[str] = []

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.finals += flags == FINAL
        if response is not None:
            self.events += [tensor.array[0, 0] for tensor in response.tensors if tensor.name == "event"]
            alive = {tensor.name: weakref.ref(tensor) for tensor in response.tensors}
            response.tensors.clear()
            self.freed += [name for name, tensor in alive.items() if tensor() is None]


class AtOnce:
    def post(self, key: object, action: Any) -> None:
        action()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.InferenceResponse, triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = (
        Tensor,
        InferenceResponse,
        FINAL,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.delitem(sys.modules, "triton_reply", raising=False)
    module = importlib.import_module("triton_reply")
    monkeypatch.delitem(sys.modules, "triton_reply")
    return module


@pytest.mark.parametrize("output_format", ["png", "raw"])
@pytest.mark.parametrize("room", [True, False])
def test_no_tensor_is_freed_while_it_is_sent(module: Any, room: bool, output_format: str) -> None:
    """Triton 24.10 does not hold Python's lock then, so that a tensor freed there crashes the process."""
    module._has_room = lambda size: room
    values: dict[str, list[Any]] = {"prompt": [b"a cat"], "output_format": [output_format.encode()], "progress": [True]}
    request = parse_request(values, {}, LIMITS, request_id="id", arrival_s=0.0)
    sender = PruningSender()
    reply = module.TritonReply(request, sender, "", AtOnce(), set())
    reply.progress(Progress(steps=(1,), totals=(4,), previews=(PICTURE,)))
    reply.done(Completed(pictures=(PICTURE,), seeds=(7,), infos=({},)))
    assert sender.events == ["progress", "preview", "final"]
    assert sender.finals == 1
    assert sender.freed == []
