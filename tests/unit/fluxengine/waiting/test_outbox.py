from __future__ import annotations

import logging
import threading
from functools import partial

import pytest

from fluxengine.waiting.outbox import Outbox
from tests.unit.fluxengine.answers import PATIENCE_S


class Held:
    """An action that begins and then waits to be let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.let_go.wait(PATIENCE_S)


def hold(outbox: Outbox, key: object = "held") -> Held:
    held = Held()
    outbox.post_end(key, held)
    assert held.begun.wait(PATIENCE_S)
    return held


def test_ends_go_out_in_order_before_all_news_and_each_after_the_newest_news_of_its_key() -> None:
    outbox, done = Outbox(threads=1), list[str]()
    held = hold(outbox)
    for what in ("a1", "b1", "a2", "c1", "b2"):
        outbox.post_news(what[0], partial(done.append, what))
    outbox.post_end("b", partial(done.append, "b"))
    outbox.post_end("d", partial(done.append, "d"))
    held.let_go.set()
    outbox.close()
    assert done == ["b2", "b", "d", "a2", "c1"]


def test_of_one_key_one_thing_is_done_at_a_time_while_others_go_on() -> None:
    outbox, done = Outbox(threads=3), list[str]()
    held = hold(outbox, "one")
    other = threading.Event()
    outbox.post_news("one", partial(done.append, "news"))
    outbox.post_end("one", partial(done.append, "end"))
    for n in range(100):  # whatever their hashes are, no thread of them waits for the one that is held
        outbox.post_end(n, other.set)
        assert other.wait(PATIENCE_S)
        other.clear()
    assert done == []
    held.let_go.set()
    outbox.close()
    assert done == ["news", "end"]


def test_of_several_threads_one_does_news_first() -> None:
    """Whatever ends come, and come again, others get their signs of life."""
    outbox, passed = Outbox(threads=2), threading.Event()

    def again() -> None:
        if not passed.is_set():
            outbox.post_end(object(), again)

    for _ in range(4):
        outbox.post_end(object(), again)
    outbox.post_news("news", passed.set)
    assert passed.wait(PATIENCE_S)
    outbox.close()


def test_both_threads_work_for_keys_of_any_kind() -> None:
    """Addresses, which are the hashes of objects, are all even."""
    outbox = Outbox(threads=2)
    keys = [object() for _ in range(2)]
    both = [hold(outbox, key) for key in keys]
    for held in both:
        held.let_go.set()
    outbox.close()


def test_nothing_is_done_by_the_thread_that_posts() -> None:
    outbox, workers = Outbox(threads=1), list[int]()
    outbox.post_end("key", lambda: workers.append(threading.get_ident()))
    outbox.post_news("key", lambda: workers.append(threading.get_ident()))
    outbox.close()
    assert len(workers) == 2
    assert threading.get_ident() not in workers


def test_close_waits_for_all_that_was_posted() -> None:
    outbox, done = Outbox(threads=3), list[tuple[str, int]]()
    for n in range(200):
        for key in "abcde":
            outbox.post_end(key, partial(done.append, (key, n)))
    outbox.close()
    for key in "abcde":
        assert [n for its, n in done if its == key] == list(range(200))


def test_an_answer_that_cannot_be_sent_is_logged_and_the_next_goes_out(caplog: pytest.LogCaptureFixture) -> None:
    outbox, sent = Outbox(threads=1), threading.Event()

    def fail() -> None:
        raise OSError("the caller is gone")

    with caplog.at_level(logging.ERROR, logger="fluxengine"):
        outbox.post_end("key", fail)
        outbox.post_end("key", sent.set)
        outbox.close()
    assert sent.is_set()
    assert "could not be sent" in caplog.text
    assert "the caller is gone" in caplog.text
