"""What model.py decides by itself, without a Triton around it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fluxengine.errors import Overloaded
from tests.unit.limits import LIMITS

HOME = Path(__file__).parents[2] / "model_repository" / "flux" / "1"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """model.py. Where Triton's own module would be there is nothing, as these tests send no tensors."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    spec = importlib.util.spec_from_file_location("model", HOME / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("triton_reply", "triton_metrics"):
        monkeypatch.delitem(sys.modules, name)
    return module


class Request:
    """One prompt, as Triton hands it over."""

    def parameters(self) -> str:
        return "{}"

    def timeout(self) -> int:
        return 0

    def inputs(self) -> list[Any]:
        return [SimpleNamespace(name=lambda: "prompt", as_numpy=lambda: np.array([[b"a cat"]], object))]


class Engine:
    """Takes a request, or is full; remembers how long each was willing to wait for room."""

    limits = LIMITS
    full = False

    def __init__(self) -> None:
        self.patience: list[float] = []
        self.cancelled: list[object] = []
        self.device_lost = SimpleNamespace(is_set=lambda: False)

    def submit(self, generate: object, reply: object, patience_s: float) -> object:
        self.patience.append(patience_s)
        if self.full:
            raise Overloaded("queue", "is full")
        return object()

    def cancel(self, ticket: object) -> None:
        self.cancelled.append(ticket)


def test_only_the_first_request_that_finds_no_room_waits_for_it(module: Any) -> None:
    """Others wait behind each in Triton, where no deadline is watched."""
    model = module.TritonPythonModel()
    model.engine, model.replies, model.outbox, model._full = Engine(), set(), None, False

    def submit(full: bool) -> None:
        model.engine.full = full
        try:
            model._submit(Request(), "id", sender=None)
            assert not full
        except Overloaded:
            assert full

    for full in (False, True, True, True, False, False, True):
        submit(full)
    patient = module.PATIENCE_S
    assert model.engine.patience == [patient, patient, 0.0, 0.0, 0.0, patient, patient]
    assert len(model.replies) == 3, "those that were taken"


class Reply:
    """One of those whose callers are watched."""

    def __init__(self, looked_at_s: float, *, taken: bool = True, drawn: bool = True, left: bool = False) -> None:
        self.ticket = object() if taken else None
        self.looked_at_s = looked_at_s
        self.looks = 0
        self.kept_alive = 0
        self._drawn, self._left = drawn, left

    def is_drawn(self) -> bool:
        return self._drawn

    def is_cancelled(self) -> bool:
        self.looks += 1
        self.looked_at_s = 1e9 + self.looks
        return self._left

    def keep_alive(self) -> None:
        self.kept_alive += 1


def watch(module: Any, replies: list[Reply], rounds: int) -> Engine:
    model = module.TritonPythonModel()
    left = iter([False] * rounds + [True])
    model._stopping = SimpleNamespace(wait=lambda _: next(left))
    model.engine, model.replies = Engine(), set(replies)
    model._watch()
    engine: Engine = model.engine
    return engine


def test_callers_are_looked_for_in_turn_and_those_on_the_device_first(module: Any) -> None:
    drawn = [Reply(n) for n in range(2 * module.LOOKS_AT_DRAWN)]
    waiting = [Reply(n, drawn=False) for n in range(3)]
    watch(module, drawn + waiting, rounds=1)
    assert [reply.looks for reply in drawn] == [1] * module.LOOKS_AT_DRAWN + [0] * module.LOOKS_AT_DRAWN
    assert [reply.looks for reply in waiting] == [1, 0, 0]
    watch(module, drawn + waiting, rounds=2)
    assert {reply.looks for reply in drawn + waiting} == {1, 2}
    assert min(reply.kept_alive for reply in drawn + waiting) == 3


def test_who_left_is_cancelled_whoever_was_never_taken(module: Any) -> None:
    """A request between its arrival and the engine's yes has nothing to cancel, and takes no look from others."""
    not_taken = [Reply(0, taken=False, left=True, drawn=False) for _ in range(3)]
    left = Reply(5, drawn=False, left=True)
    engine = watch(module, [*not_taken, left], rounds=1)
    assert engine.cancelled == [left.ticket]
    assert [reply.looks for reply in not_taken] == [0, 0, 0]


def test_nothing_is_taken_any_more_when_the_device_is_lost(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its refusal would be posted behind the end of the outbox, and its caller wait for ever."""
    model = module.TritonPythonModel()
    done: list[str] = []
    monkeypatch.setattr(module.os, "_exit", lambda code: done.append("exit"))
    model._stopping = SimpleNamespace(wait=lambda _: bool(done))
    model._taking = SimpleNamespace(acquire=lambda: done.append("no more is taken"))
    model.outbox = SimpleNamespace(close=lambda: done.append("all is answered"))
    model.engine, model.replies = Engine(), set()
    model.engine.device_lost = SimpleNamespace(is_set=lambda: True)
    model._watch()
    assert done == ["no more is taken", "all is answered", "exit"]
