"""How the last response leaves, with stand-ins for Triton's own classes."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fluxengine.errors import Overloaded
from fluxengine.waiting.outbox import Outbox
from tests.unit.triton_stand_ins import InferenceResponse, Sender, Tensor, import_beside_triton


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = import_beside_triton(monkeypatch, "last_response")
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    return module


def answer() -> InferenceResponse:
    return InferenceResponse([Tensor("seed", np.array([[7]]))])


def sent_by(module: Any, sender: Sender, size: int = 100) -> list[str]:
    """What is sent in the end; what happened, in order."""
    outbox, happened = Outbox(threads=1), list[str]()
    closed = lambda: happened.append(f"closed after {len(sender.sent)}")  # noqa: E731
    last = module.LastResponse(sender, "id", outbox, sender, closed, once=sender.once)
    outbox.post_end(last, lambda: last.send(answer, size))
    outbox.close()
    return happened


def test_the_end_is_told_by_itself_after_whoever_asks_for_the_caller_has_been_stopped(module: Any) -> None:
    sender = Sender()
    assert sent_by(module, sender) == ["closed after 1"]
    assert (len(sender.sent), sender.finals) == (1, 1)
    assert sender.sent[0]["seed"] == 7


def test_an_answer_that_does_not_fit_at_the_moment_is_tried_again(module: Any) -> None:
    sender = Sender()
    sender.failures = 3
    assert sent_by(module, sender) == ["closed after 1"]
    assert (len(sender.sent), sender.finals) == (1, 1)


def test_others_are_sent_meanwhile(module: Any) -> None:
    outbox, done = Outbox(threads=1), list[str]()
    sender = Sender()
    sender.failures = 1
    last = module.LastResponse(sender, "id", outbox, "this one", lambda: done.append("this one"))

    def begin() -> None:
        outbox.post_end("other", lambda: done.append("other"))
        last.send(answer, 100)

    outbox.post_end(last, begin)
    outbox.close()
    assert done == ["other", "this one"]


@pytest.mark.parametrize("never", ["too large", "too long"])
def test_an_answer_that_will_never_fit_ends_as_an_error(
    module: Any, monkeypatch: pytest.MonkeyPatch, never: str
) -> None:
    sender = Sender()
    sender.failures = 100
    if never == "too long":
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    sent_by(module, sender, size=100 if never == "too long" else 2**62)
    (error,) = sender.errors
    what = "could not be sent" if never == "too long" else "does not fit into /dev/shm"
    assert error.startswith(f"FLUX_OUT_OF_MEMORY: answer: {what}: Failed to increase the shared memory pool size; a")
    assert (sender.codes, sender.finals) == (["UNAVAILABLE"], 1)


def test_a_model_of_one_response_tells_the_end_with_it(module: Any) -> None:
    """Triton 24.10 falls if the caller leaves between the two."""
    sender = Sender(once=True)
    assert sent_by(module, sender) == ["closed after 0"]
    assert (len(sender.sent), sender.finals, sender.calls) == (1, 1, 1)


@pytest.mark.parametrize("fits", [True, False])
def test_where_memory_is_short_its_answer_goes_first_and_the_end_in_any_case(
    module: Any, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """Triton may hold memory enough; else the caller hears from it that there is no answer, and nobody hangs."""
    monkeypatch.setattr(module, "_shared_memory", lambda: module._Memory(2**26, 1000))
    sender = Sender(once=True)
    sender.failures = 0 if fits else 1
    sent_by(module, sender, size=2**22)
    assert (len(sender.sent), sender.finals, sender.calls) == (int(fits), 1, 2)


def test_a_refusal_does_not_keep_what_the_error_was_raised_among(module: Any) -> None:
    class Upload:
        pass

    def raises() -> weakref.ref[Upload]:
        upload = Upload()
        kept = weakref.ref(upload)
        try:
            raise Overloaded("image", "has no room")
        except Overloaded as error:
            last.refuse(error)
        return kept

    posted: list[Any] = []
    outbox = SimpleNamespace(post_end=lambda key, action: posted.append(action))
    sender = Sender()
    last = module.LastResponse(sender, "id", outbox, "key")
    assert raises()() is None
    posted[0]()
    assert sender.errors == ["FLUX_OVERLOADED: image: has no room [request id]"]


def test_an_error_waits_for_the_little_memory_that_it_needs(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([0, 0, module.ERROR_BYTES])
    monkeypatch.setattr(module, "_shared_memory", lambda: module._Memory(2**30, next(free)))
    sender, outbox = Sender(), Outbox(threads=1)
    module.LastResponse(sender, "id", outbox, "key").refuse(Overloaded("queue", "is full"))
    outbox.close()
    assert (sender.errors, sender.codes) == (["FLUX_OVERLOADED: queue: is full [request id]"], ["UNAVAILABLE"])
    assert sender.finals == 1
    assert next(free, None) is None


def test_nothing_keeps_the_sender_after_the_end(module: Any) -> None:
    """Triton's memory, which it needs, may be gone before whoever refers to this."""
    sender, outbox = Sender(), Outbox(threads=1)
    last = module.LastResponse(sender, "id", outbox, "key")
    outbox.post_end(last, lambda: last.send(answer, 100))
    outbox.close()
    kept = weakref.ref(sender)
    del sender
    assert kept() is None
