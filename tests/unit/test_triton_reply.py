"""How an answer leaves, with stand-ins for Triton's own classes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fluxengine.errors import Cancelled
from fluxengine.job import Ticket
from fluxengine.reply import Completed, Progress
from fluxengine.wire.parsing import parse_request
from tests.unit.limits import LIMITS
from tests.unit.triton_stand_ins import Sender, import_beside_triton

PICTURE = np.zeros((64, 64, 3), np.uint8)
OTHER = np.ones((64, 64, 3), np.uint8)
COMPLETED = Completed(pictures=(PICTURE,), seeds=(7,), infos=({},))
UNLOADED = Cancelled("unload", "the model is being unloaded")


class Posted:
    """An outbox that does nothing until it is told to."""

    def __init__(self) -> None:
        self.ends: list[Callable[[], None]] = []
        self.news: list[Callable[[], None]] = []

    def post_news(self, key: object, action: Callable[[], None]) -> None:
        self.news = [action]

    def post_end(self, key: object, action: Callable[[], None]) -> None:
        self.ends.append(action)

    def send(self) -> None:
        for action in (*self.news, *self.ends):
            action()
        self.news, self.ends = [], []


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    return import_beside_triton(monkeypatch, "triton_reply")


@pytest.fixture
def replied(module: Any) -> Callable[..., tuple[Any, Sender, Posted]]:
    """Makes a reply to a new request, what it sends by, and what it posts to."""

    def make(output_format: str = "png", arrival_s: float = 0.0) -> tuple[Any, Sender, Posted]:
        values: dict[str, list[Any]] = {
            "prompt": [b"a cat"],
            "output_format": [output_format.encode()],
            "progress": [True],
        }
        request = parse_request(values, {}, LIMITS, request_id="id", arrival_s=arrival_s)
        sender, posted = Sender(), Posted()
        return module.TritonReply(request, sender, posted, set()), sender, posted

    return make


def progress(step: int, preview: Any = None) -> Progress:
    return Progress(steps=(step,), totals=(4,), previews=(preview,))


@pytest.mark.parametrize("output_format", ["png", "raw"])
def test_no_tensor_is_freed_while_it_is_sent(replied: Any, output_format: str) -> None:
    """Triton 24.10 does not hold Python's lock then, so that a tensor freed there crashes the process."""
    reply, sender, posted = replied(output_format)
    reply.progress(progress(1, PICTURE))
    reply.done(COMPLETED)
    posted.send()
    assert sender.events == ["progress", "preview", "final"]
    assert sender.finals == 1
    assert sender.freed == []


def test_of_progress_that_waits_the_newest_is_sent_with_the_newest_preview(replied: Any) -> None:
    reply, sender, posted = replied()
    for step, preview in ((1, None), (2, PICTURE), (3, None)):
        reply.progress(progress(step, preview))
    posted.send()
    assert sender.events == ["progress", "preview"]
    assert [outputs["step"][0, 0] for outputs in sender.sent] == [3, 3]
    assert progress(4, OTHER).after(progress(3, PICTURE)).previews[0] is OTHER
    reply.progress(progress(4))
    posted.send()
    assert [outputs["step"][0, 0] for outputs in sender.sent] == [3, 3, 4], "a preview is sent once"


@pytest.mark.parametrize("how", ["done", "error"])
def test_a_reply_that_has_ended_keeps_no_sender(replied: Any, how: str) -> None:
    """The engine may refer to it until the process ends; Triton's memory, which the sender needs, is gone before."""
    reply, sender, posted = replied()
    reply.done(COMPLETED) if how == "done" else reply.error(UNLOADED)
    posted.send()
    assert sender.finals == 1
    kept = weakref.ref(sender)
    del sender
    assert kept() is None
    assert not reply.is_cancelled()


def test_a_request_that_ended_before_it_was_seen_to_be_taken(replied: Any) -> None:
    reply, sender, posted = replied()
    reply.done(COMPLETED)
    posted.send()
    reply.taken(Ticket(reply._request, reply))
    assert (sender.events, sender.finals) == (["final"], 1)
    assert reply.ticket is None


def test_an_error_is_the_only_response(replied: Any) -> None:
    reply, sender, posted = replied()
    reply.taken(Ticket(reply._request, reply))
    reply.error(UNLOADED)
    posted.send()
    assert sender.errors == ["FLUX_CANCELLED: unload: the model is being unloaded [request id]"]
    assert (sender.codes, sender.finals) == (["CANCELLED"], 1)


def test_signs_of_life_come_until_the_answer_is_sent(replied: Any, module: Any) -> None:
    reply, sender, posted = replied(arrival_s=-1e9)
    ticket = Ticket(reply._request, reply)
    reply.taken(ticket)
    reply.keep_alive()
    posted.send()
    assert [outputs["step"][0, 0] for outputs in sender.sent] == [0]
    reply.keep_alive()
    posted.send()
    assert len(sender.sent) == 1, "it has just been told"
    reply.progress(progress(4))
    posted.send()
    ticket.end()
    reply.done(COMPLETED)  # and waits, behind others
    reply._told_s = -1e9
    reply.keep_alive()
    for action in posted.news:
        action()
    assert [outputs["step"][0, 0] for outputs in sender.sent] == [0, 4, 4]
    posted.send()
    assert sender.events == ["progress"] * 3 + ["final"]
    reply.keep_alive()
    assert posted.news == []
