"""What model.py decides by itself, without a Triton around it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fluxengine.errors import Overloaded
from fluxengine.metrics import Metrics
from fluxengine.waiting.outbox import Outbox
from tests.unit.limits import LIMITS
from tests.unit.triton_stand_ins import MODULES, Request, import_beside_triton

HOME = Path(__file__).parents[2] / "model_repository" / "flux" / "1"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """model.py of flux."""
    import_beside_triton(monkeypatch, "triton_reply")
    spec = importlib.util.spec_from_file_location("model", HOME / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return module


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
    model._default_deadline_ms = 0

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

    is_drawn = False
    order = 0.0

    def __init__(self, *, taken: bool = True, left: bool = False, is_local: bool = False) -> None:
        self.ticket = object() if taken else None
        self.is_local = is_local
        self.looked_at_s = 0.0
        self.looks = 0
        self.kept_alive = 0
        self._left = left

    def is_cancelled(self) -> bool:
        self.looks += 1
        return self._left

    def keep_alive(self) -> None:
        self.kept_alive += 1


def watch(module: Any, replies: list[Reply]) -> Engine:
    """One look at all of them."""
    model = module.TritonPythonModel()
    stopped = iter([False, True])
    model._stopping = SimpleNamespace(wait=lambda _: next(stopped))
    model.engine, model.replies = Engine(), set(replies)
    model._watch()
    engine: Engine = model.engine
    return engine


def test_who_left_is_cancelled_and_whoever_was_never_taken_is_not_looked_for(module: Any) -> None:
    """A request between its arrival and the engine's yes has nothing to cancel."""
    not_taken = [Reply(taken=False, left=True) for _ in range(3)]
    left, stays = Reply(left=True), Reply()
    engine = watch(module, [*not_taken, left, stays])
    assert engine.cancelled == [left.ticket]
    assert [reply.looks for reply in not_taken] == [0, 0, 0]
    assert (left.kept_alive, stays.kept_alive) == (1, 1)


def test_all_callers_of_flux_unary_are_looked_for_at_once(module: Any) -> None:
    """It costs nothing: flux_unary has said already who left."""
    local = [Reply(left=n % 2 == 0, is_local=True) for n in range(100)]
    engine = watch(module, local)
    assert len(engine.cancelled) == 50
    assert [reply.looks for reply in local] == [1] * 100


def test_whatever_goes_wrong_is_answered(module: Any) -> None:
    model = module.TritonPythonModel()
    model.engine, model.replies, model._full, model._default_deadline_ms = Engine(), set(), False, 0
    model.outbox, model.metrics, model._taking = Outbox(threads=1), Metrics(), threading.Lock()
    bad = Request(num_inference_steps=np.array([[0]]))
    broken = Request(parameters="not JSON")
    model.engine.full = True
    refused = Request()
    for request in (bad, broken, refused):
        model._take(request)
    model.outbox.close()
    assert bad.sender.errors[0].startswith("FLUX_INVALID_ARGUMENT: num_inference_steps: is 0; must be")
    assert broken.sender.errors[0].startswith("FLUX_INTERNAL: server: JSONDecodeError: ")
    assert refused.sender.errors == ["FLUX_OVERLOADED: queue: is full [request id]"]
    assert model.replies == set()
    counted = {label: count for (_, label), count in model.metrics.drain().counters.items()}
    assert counted == {"invalid_argument": 1, "internal": 1, "overloaded": 1}


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
