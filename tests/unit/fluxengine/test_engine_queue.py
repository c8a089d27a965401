"""Who waits, leaves, comes too late, or finds no room."""

from __future__ import annotations

import threading
import time

import pytest

from fluxengine.engine import Engine
from fluxengine.errors import Cancelled, DeadlineExceeded, Overloaded, Unavailable
from fluxengine.job import Ticket
from tests.unit.fluxengine.answers import PATIENCE_S, Answer, Gate, eventually, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, level, text_value
from tests.unit.fluxengine.engines import Engines, assert_nothing_is_left, hold, levels, start

# ---- cancelling and deadlines ----


def test_a_cancelled_request_gives_its_place_to_the_next_before_the_next_step(
    engines: Engines, family: ArithmeticFamily, gate: Gate
) -> None:
    engine, leaves, waits = start(engines, family, max_batch=1), Answer(), Answer()
    texts = hold(family, gate)
    ticket = engine.submit(request("one", steps=50), leaves)
    gate.wait_for_calls(1)
    engine.submit(request("two", steps=1), waits)
    engine.cancel(ticket)
    gate.open()
    assert levels(waits.completed()) == [level("two", 1, 2.0, 5)]
    assert isinstance(leaves.failure(), Cancelled)
    assert texts == [[text_value("one")], [text_value("two")]]
    assert_nothing_is_left(engine)


def test_cancelling_one_that_waits(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, first, waits = start(engines, family, max_batch=1), Answer(), Answer()
    texts = hold(family, gate)
    engine.submit(request("one"), first)
    gate.wait_for_calls(1)
    ticket = engine.submit(request("two", images=3), waits)
    engine.cancel(ticket)
    engine.cancel(ticket)
    gate.open()
    assert isinstance(waits.failure(), Cancelled)
    assert levels(first.completed()) == [level("one", 4, 2.0, 5)]
    assert texts == [[text_value("one")]] * 4
    engine.cancel(ticket)
    engine.close()
    assert len(waits.outcomes) == 1


def test_cancelling_what_has_ended_does_nothing(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer, after = start(engines, family), Answer(), Answer()
    ticket = engine.submit(request(), answer)
    answer.completed()
    engine.cancel(ticket)
    engine.submit(request(), after)
    after.completed()
    assert len(answer.outcomes) == 1
    assert_nothing_is_left(engine)


def test_a_deadline_that_passes_while_waiting(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, first, late = start(engines, family, max_batch=1), Answer(), Answer()
    texts = hold(family, gate)
    engine.submit(request("one"), first)
    gate.wait_for_calls(1)
    engine.submit(request("two", deadline_s=0.01), late)
    time.sleep(0.02)
    gate.open()
    failure = late.failure()
    assert isinstance(failure, DeadlineExceeded)
    assert failure.cause == "deadline"
    assert failure.problem.endswith("ms, while waiting")
    first.completed()
    assert [text_value("two")] not in texts
    assert_nothing_is_left(engine)


def test_a_deadline_that_passes_in_flight(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, late, neighbour = start(engines, family), Answer(), Answer()
    texts = hold(family, gate)
    engine.submit(request("one", steps=9, deadline_s=0.5), late)
    engine.submit(request("two", steps=6), neighbour)
    gate.wait_for_calls(1)
    gate.let(2)
    time.sleep(0.5)
    gate.open()
    assert isinstance(late.failure(), DeadlineExceeded)
    assert levels(neighbour.completed()) == [level("two", 6, 2.0, 5)]
    with_late = [step for step in texts if text_value("one") in step]
    assert len(with_late) == 3, "no step after the one during which it passed"
    assert late.failure().problem.endswith("at step 3 of 9")


def test_a_deadline_that_has_passed_already(engines: Engines, family: ArithmeticFamily) -> None:
    encoded: list[str] = []
    engine, late, next_one = start(engines, family), Answer(), Answer()
    family.on_encode = encoded.extend
    engine.submit(request("one", deadline_s=-1.0), late)
    engine.submit(request("two", deadline_s=PATIENCE_S), next_one)
    assert isinstance(late.failure(), DeadlineExceeded)
    next_one.completed()
    assert encoded == ["two"]


# ---- room ----


def come_in(engine: Engine) -> threading.Event:
    """Submits one more with patience, from a thread of its own; set when it was let in."""
    let_in = threading.Event()

    def wait() -> None:
        engine.submit(request("late"), Answer(), patience_s=PATIENCE_S)
        let_in.set()

    threading.Thread(target=wait, daemon=True).start()
    return let_in


@pytest.fixture
def full(engines: Engines, family: ArithmeticFamily, gate: Gate) -> tuple[Engine, Ticket]:
    """An engine that two requests have filled, held by `gate` in the first step, and the second request."""
    engine = start(engines, family, max_batch=1, max_in_flight=3)
    hold(family, gate)
    engine.submit(request("one", steps=2), Answer())
    ticket = engine.submit(request("two", images=2), Answer())
    gate.wait_for_calls(1)
    return engine, ticket


def test_who_brings_more_is_refused(full: tuple[Engine, Ticket], gate: Gate) -> None:
    engine, answer = full[0], Answer()
    with pytest.raises(Overloaded, match="holds 3 images, max_in_flight is 3"):
        engine.submit(request("late"), answer)
    gate.open()
    assert answer.outcomes == []
    eventually(lambda: engine.in_flight == 0, "all done")


def test_who_has_patience_waits_until_something_is_finished(full: tuple[Engine, Ticket], gate: Gate) -> None:
    let_in = come_in(full[0])
    gate.let(1)
    assert not let_in.wait(0.05), "let in where there was no room"
    gate.let(1)
    assert let_in.wait(PATIENCE_S)
    gate.open()


def test_who_has_patience_waits_until_something_is_cancelled(full: tuple[Engine, Ticket], gate: Gate) -> None:
    engine, ticket = full
    let_in = come_in(engine)
    assert not let_in.wait(0.05), "let in where there was no room"
    engine.cancel(ticket)
    gate.let(1)
    assert let_in.wait(PATIENCE_S)
    gate.open()


def test_nobody_waits_for_room_in_an_engine_that_closes(full: tuple[Engine, Ticket], gate: Gate) -> None:
    engine, _ = full
    let_in = come_in(engine)
    closer = threading.Thread(target=engine.close)
    closer.start()
    assert let_in.wait(PATIENCE_S)
    gate.open()
    closer.join(PATIENCE_S)


def test_a_request_larger_than_all_room_is_taken_and_done(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family, max_in_flight=4), Answer()
    engine.submit(request("one", images=20), answer)
    assert len(answer.completed().pictures) == 20


def test_draining_takes_nothing_more_and_gives_up_the_rest_when_told(
    engines: Engines, family: ArithmeticFamily, gate: Gate
) -> None:
    engine, finishes, running, waiting = start(engines, family, max_batch=2), Answer(), Answer(), Answer()
    hold(family, gate)
    engine.submit(request("finishes", steps=1), finishes)
    engine.submit(request("runs", steps=50), running)
    engine.submit(request("waits", steps=50, size=(64, 128)), waiting)
    gate.wait_for_calls(1)
    engine.drain()
    with pytest.raises(Unavailable, match="server: is stopping; send the request to another"):
        engine.submit(request(), Answer())
    gate.let(4)
    finishes.completed()
    engine.give_up()
    gate.open()
    for answer in (running, waiting):
        assert isinstance(answer.failure(), Cancelled)
        assert "its time for requests in flight is over" in str(answer.failure())
    eventually(lambda: engine.in_flight == 0, "nothing is in flight")
    with pytest.raises(Unavailable):
        engine.submit(request(), Answer())
