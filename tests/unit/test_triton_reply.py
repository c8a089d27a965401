"""How an answer leaves, with stand-ins for Triton's own classes."""

from __future__ import annotations

import importlib
import json
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fluxengine.errors import Cancelled
from fluxengine.request import parse_request
from fluxengine.ticket import Completed, Progress, Ticket
from tests.unit.limits import LIMITS

PICTURE = np.zeros((64, 64, 3), np.uint8)
COMPLETED = Completed(pictures=(PICTURE,), seeds=(7,), infos=({},))
FINAL = 1


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name = name
        self.array = array


class InferenceResponse:
    def __init__(self, tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.tensors = list(tensors)
        self.error = error


class TritonError:
    CANCELLED = 7

    def __init__(self, message: str, code: int) -> None:
        self.message = message


class PruningSender:
    """Drops what nobody asked for while it sends, as Triton does, and notes what is freed by that."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.infos: list[str] = []
        self.errors: list[str] = []
        self.finals = 0
        self.freed: list[str] = []

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.finals += flags == FINAL
        if response is not None:
            self.events += [tensor.array[0, 0] for tensor in response.tensors if tensor.name == "event"]
            self.infos += [tensor.array[0, 0] for tensor in response.tensors if tensor.name == "info"]
            self.errors += [response.error.message] if response.error else []
            alive = {tensor.name: weakref.ref(tensor) for tensor in response.tensors}
            response.tensors.clear()
            self.freed += [name for name, tensor in alive.items() if tensor() is None]


class AtOnce:
    def post(self, key: object, action: Any) -> None:
        action()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.InferenceResponse, triton.TritonError = Tensor, InferenceResponse, TritonError
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.delitem(sys.modules, "triton_reply", raising=False)
    module = importlib.import_module("triton_reply")
    monkeypatch.delitem(sys.modules, "triton_reply")
    return module


@pytest.fixture
def replied(module: Any) -> Callable[..., tuple[Any, PruningSender]]:
    """Makes a reply to a new request, and what it sends by."""

    def make(output_format: str = "png", token: str = "") -> tuple[Any, PruningSender]:
        values: dict[str, list[Any]] = {
            "prompt": [b"a cat"],
            "output_format": [output_format.encode()],
            "progress": [True],
        }
        request = parse_request(values, {}, LIMITS, request_id="id", arrival_s=0.0)
        sender = PruningSender()
        return module.TritonReply(request, sender, token, AtOnce(), set()), sender

    return make


@pytest.mark.parametrize("output_format", ["png", "raw"])
@pytest.mark.parametrize("room", [True, False])
def test_no_tensor_is_freed_while_it_is_sent(module: Any, replied: Any, room: bool, output_format: str) -> None:
    """Triton 24.10 does not hold Python's lock then, so that a tensor freed there crashes the process."""
    module._has_room = lambda size: room
    reply, sender = replied(output_format)
    reply.progress(Progress(steps=(1,), totals=(4,), previews=(PICTURE,)))
    reply.done(COMPLETED)
    assert sender.events == ["progress", "preview", "final"]
    assert sender.finals == 1
    assert sender.freed == []


@pytest.mark.parametrize("how", ["done", "error"])
def test_a_reply_that_has_ended_keeps_no_sender(replied: Any, how: str) -> None:
    """The engine may refer to it until the process ends; Triton's memory, which the sender needs, is gone before."""
    reply, sender = replied()
    if how == "done":
        reply.done(COMPLETED)
    else:
        reply.error(Cancelled("unload", "the model is being unloaded"))
    assert sender.finals == 1
    kept = weakref.ref(sender)
    del sender
    assert kept() is None
    assert not reply.is_cancelled()


def test_flux_unary_hears_that_its_request_was_taken_and_of_errors_by_events(replied: Any) -> None:
    """Triton loses an error between models that is not the first response."""
    reply, sender = replied(token="0" * 32)
    reply.taken(Ticket(reply._request, reply))
    assert json.loads(sender.infos[-1]) == {"pid": os.getpid()}
    reply.error(Cancelled("unload", "the model is being unloaded"))
    assert json.loads(sender.infos[-1]) == {
        "message": "FLUX_CANCELLED: unload: the model is being unloaded [request id]"
    }
    assert (sender.events, sender.finals, sender.freed) == (["taken", "error"], 1, [])


def test_a_request_that_ended_before_it_was_seen_to_be_taken_hears_no_more(replied: Any) -> None:
    reply, sender = replied(token="0" * 32)
    reply.done(COMPLETED)
    reply.taken(Ticket(reply._request, reply))
    assert (sender.events, sender.finals) == (["final"], 1)
    assert reply.ticket is None


def test_others_hear_nothing_of_being_taken_and_get_errors_as_such(replied: Any) -> None:
    reply, sender = replied()
    reply.taken(Ticket(reply._request, reply))
    reply.error(Cancelled("unload", "the model is being unloaded"))
    assert (sender.events, sender.finals) == ([], 1)
    assert sender.errors == ["FLUX_CANCELLED: unload: the model is being unloaded [request id]"]
