"""What goes wrong, and the end of an engine: each request is answered once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from fluxengine import metrics as m
from fluxengine.errors import Cancelled, ConfigError, DeadlineExceeded, FluxError, Internal, OutOfMemory
from fluxengine.job import Ticket
from fluxengine.metrics import Metrics
from fluxengine.reply import Completed, Progress
from tests.unit.fluxengine.answers import PATIENCE_S, Answer, Gate, eventually, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, level, text_value
from tests.unit.fluxengine.engines import CONFIG, Engines, assert_nothing_is_left, hold, levels, start

# ---- the end ----


def test_close_answers_everything(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, answers = start(engines, family, max_batch=2), [Answer() for _ in range(5)]
    hold(family, gate)
    for answer in answers[:4]:
        engine.submit(request(steps=50), answer)
    gate.wait_for_calls(1)
    engine.submit(request(), answers[4])
    closer = threading.Thread(target=engine.close)
    closer.start()
    eventually(lambda: engine._inbox._closing, "close has begun")
    gate.open()
    closer.join(PATIENCE_S)
    for answer in answers:
        assert isinstance(answer.failure(), Cancelled)
        assert len(answer.outcomes) == 1
    late = Answer()
    engine.submit(request(), late)
    assert isinstance(late.failure(), Cancelled)
    assert_nothing_is_left(engine)
    engine.close()


def test_a_request_refused_at_the_end_is_answered_once(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, refused = start(engines, family), Answer()
    hold(family, gate)
    engine.submit(request(), Answer())
    gate.wait_for_calls(1)
    closer = threading.Thread(target=engine.close)
    closer.start()
    eventually(lambda: engine._inbox._closing, "close has begun")
    engine.cancel(engine.submit(request(), refused))
    gate.open()
    closer.join(PATIENCE_S)
    assert len(refused.outcomes) == 1
    assert_nothing_is_left(engine)


def test_what_goes_wrong_while_loading_is_raised_by_start(engines: Engines, family: ArithmeticFamily) -> None:
    def load() -> ArithmeticFamily:
        raise ConfigError("model is 'x': not found")

    with pytest.raises(ConfigError, match="model is 'x'"):
        engines.start(load)
    with pytest.raises(ConfigError, match="default_steps is 200: more than max_steps"):
        start(engines, family, default_steps=200)

    def fail(_: object) -> None:
        raise ValueError("weights of another shape")

    family.on_predict = fail
    with pytest.raises(Internal, match="weights of another shape"):
        start(engines, family)


def test_an_engine_that_was_closed_does_not_start(engines: Engines, family: ArithmeticFamily) -> None:
    engine = engines.make(lambda: family, CONFIG)
    engine.close()
    with pytest.raises(Cancelled):
        engine.start()


# ---- failures ----


def test_a_prompt_that_fails_is_answered_and_its_neighbours_finish(engines: Engines, family: ArithmeticFamily) -> None:
    engine = start(engines, family)
    poison = text_value("poison")

    def fail(texts: list[int]) -> None:
        if poison in texts:
            raise ValueError("a strange number")

    family.on_predict = fail
    good, bad = [Answer() for _ in range(6)], Answer()
    for n, answer in enumerate(good[:3]):
        engine.submit(request(f"p{n}"), answer)
    engine.submit(request("fine", "poison", images=2), bad)
    for n, answer in enumerate(good[3:], 3):
        engine.submit(request(f"p{n}"), answer)
    assert isinstance(bad.failure(), Internal)
    assert [levels(answer.completed()) for answer in good] == [[level(f"p{n}", 4, 2.0, 5)] for n in range(6)]
    assert len(bad.outcomes) == 1
    eventually(lambda: not engine._tickets, "all have ended")
    assert_nothing_is_left(engine)


def test_no_memory_for_one_even_alone(engines: Engines, family: ArithmeticFamily) -> None:
    engine, large, small = start(engines, family), Answer(), Answer()

    def full(texts: list[int]) -> None:
        if text_value("large") in texts:
            raise torch.OutOfMemoryError("CUDA out of memory")

    family.on_predict = full
    engine.submit(request("large"), large)
    engine.submit(request("small"), small)
    assert isinstance(large.failure(), OutOfMemory)
    assert levels(small.completed()) == [level("small", 4, 2.0, 5)]


def test_nothing_is_kept_of_a_request_that_fails_while_its_next_image_joins(
    engines: Engines, family: ArithmeticFamily
) -> None:
    engine, answer = start(engines, family, max_batch=1), Answer()

    def fail(rows: int) -> None:
        raise ValueError("a strange picture")

    family.on_decode = fail
    engine.submit(request("one", images=2, steps=2), answer)
    assert isinstance(answer.failure(), Internal)
    engine.close()
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("where", ["on_encode", "on_predict", "on_decode"])
def test_a_lost_device_ends_all_as_internal(engines: Engines, family: ArithmeticFamily, where: str) -> None:
    engine, answers = start(engines, family, max_batch=2), [Answer() for _ in range(5)]
    go = threading.Event()

    def lose(_: Sequence[str]) -> None:
        assert go.wait(PATIENCE_S)
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    setattr(family, where, lose)
    for answer in answers:
        engine.submit(request(), answer)
    go.set()
    for answer in answers:
        failure = answer.failure()
        assert isinstance(failure, Internal)
        assert failure.cause == "device"
    assert engine.device_lost.wait(PATIENCE_S)
    late = Answer()
    engine.submit(request(), late)
    assert isinstance(late.failure(), Cancelled)
    engine.close()
    assert [len(answer.outcomes) for answer in answers] == [1] * 5


class RudeAnswer(Answer):
    """Raises where no reply should, once it has taken note."""

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        raise OSError("nobody listens")

    def done(self, completed: Completed) -> None:
        super().done(completed)
        raise OSError("nobody listens")

    def error(self, error: FluxError) -> None:
        super().error(error)
        raise OSError("nobody listens")


def test_a_reply_that_raises_harms_nobody(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, neighbour = start(engines, family), Answer()
    drawn, cancelled, late = RudeAnswer(), RudeAnswer(), RudeAnswer()
    hold(family, gate)
    engine.submit(request("one", progress=True), drawn)
    engine.submit(request("two", steps=6), neighbour)
    engine.submit(request("three", deadline_s=0.0), late)
    engine.cancel(engine.submit(request("four"), cancelled))
    gate.open()
    assert levels(drawn.completed()) == [level("one", 4, 2.0, 5)]
    assert levels(neighbour.completed()) == [level("two", 6, 2.0, 5)]
    assert isinstance(late.failure(), DeadlineExceeded)
    assert isinstance(cancelled.failure(), Cancelled)
    engine.close()
    assert [len(answer.outcomes) for answer in (drawn, cancelled, late, neighbour)] == [1, 1, 1, 1]
    assert_nothing_is_left(engine)


def test_a_turn_that_fails_ends_what_it_was_about_and_no_more(
    engines: Engines, family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    engine, taken, meanwhile = start(engines, family, metrics), Answer(), Answer()

    def fail() -> None:
        monkeypatch.undo()
        engine.submit(request("two"), meanwhile)
        raise KeyError("a fault of the scheduler")

    monkeypatch.setattr(engine._scheduler, "plan", fail)
    engine.submit(request("one"), taken)
    failure = taken.failure()
    assert isinstance(failure, Internal)
    assert failure.cause == "engine"
    assert "a fault of the scheduler" in failure.problem
    assert levels(meanwhile.completed()) == [level("two", 4, 2.0, 5)]
    engine.close()
    assert metrics.drain().gauges[m.WAITING, ""] == 0
    assert_nothing_is_left(engine)


def test_a_turn_that_cannot_even_begin_ends_what_is_there_and_the_engine_goes_on(
    engines: Engines, family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, taken, later = start(engines, family), Answer(), Answer()

    def fail(_: Ticket) -> bool:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(engine._preparation, "add", fail)
    engine.submit(request("one"), taken)
    assert isinstance(taken.failure(), Internal)
    engine.submit(request("two"), later)
    assert levels(later.completed()) == [level("two", 4, 2.0, 5)]
    engine.close()
    assert_nothing_is_left(engine)
