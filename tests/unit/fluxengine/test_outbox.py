from __future__ import annotations

import logging
import threading
from collections import defaultdict
from functools import partial

import pytest

from fluxengine.outbox import Outbox
from tests.unit.fluxengine.answers import PATIENCE_S


def test_what_has_one_key_is_done_in_order_and_close_waits_for_all() -> None:
    outbox = Outbox(threads=3)
    done: defaultdict[str, list[int]] = defaultdict(list)
    for n in range(200):
        for key in "abcde":
            outbox.post(key, partial(done[key].append, n))
    outbox.close()
    assert dict(done) == {key: list(range(200)) for key in "abcde"}


def test_nothing_is_done_by_the_thread_that_posts() -> None:
    outbox = Outbox(threads=1)
    workers: list[int] = []
    outbox.post("key", lambda: workers.append(threading.get_ident()))
    outbox.close()
    assert len(workers) == 1
    assert workers != [threading.get_ident()]


def test_posting_does_not_wait_and_a_slow_answer_holds_up_only_its_own_thread() -> None:
    outbox = Outbox(threads=2)
    held, passed = threading.Event(), threading.Event()

    def hold() -> None:
        held.wait(PATIENCE_S)

    outbox.post(0, hold)  # an integer below the number of threads is its own hash
    outbox.post(1, passed.set)
    assert passed.wait(PATIENCE_S)
    held.set()
    outbox.close()


def test_an_answer_that_cannot_be_sent_is_logged_and_the_next_goes_out(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(threads=1)
    sent = threading.Event()

    def fail() -> None:
        raise OSError("the caller is gone")

    with caplog.at_level(logging.ERROR, logger="fluxengine"):
        outbox.post("key", fail)
        outbox.post("key", sent.set)
        outbox.close()
    assert sent.is_set()
    assert "could not be sent" in caplog.text
    assert "the caller is gone" in caplog.text
