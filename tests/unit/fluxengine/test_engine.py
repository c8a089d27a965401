from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from fluxengine import metrics as m
from fluxengine.config import EngineConfig
from fluxengine.engine import Engine
from fluxengine.errors import Cancelled, ConfigError, DeadlineExceeded, FluxError, Internal, OutOfMemory, Overloaded
from fluxengine.job import Job
from fluxengine.latent_batch import RowState
from fluxengine.metrics import Metrics
from fluxengine.ticket import Completed, Progress, Ticket
from tests.unit.fluxengine.answers import PATIENCE_S, Answer, Gate, eventually, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, guess_level, level, text_value
from tests.unit.fluxengine.engines import Engines

CONFIG = EngineConfig(model="numbers", max_batch=4)


@pytest.fixture
def family() -> ArithmeticFamily:
    return ArithmeticFamily()


def start(engines: Engines, family: ArithmeticFamily, metrics: Metrics | None = None, **options: Any) -> Engine:
    return engines.start(lambda: family, replace(CONFIG, **options), metrics)


def hold(family: ArithmeticFamily, gate: Gate) -> list[list[int]]:
    """Holds the engine before each step. Returns the text values of each, as they come."""
    texts_of_steps: list[list[int]] = []

    def on_predict(texts: list[int]) -> None:
        texts_of_steps.append(sorted(texts))
        gate(len(texts))

    family.on_predict = on_predict
    return texts_of_steps


def levels(completed: Completed) -> list[int]:
    assert all(picture.min() == picture.max() for picture in completed.pictures)
    return [int(picture.max()) for picture in completed.pictures]


def assert_nothing_is_left(engine: Engine) -> None:
    """Once all have been answered, the engine is as after its start."""
    assert engine._in_flight == 0
    assert not engine._tickets
    assert (engine._scheduler.waiting, engine._scheduler.running) == (0, 0)
    assert engine._scheduler._groups == {}
    assert engine._runner._states == {}


@pytest.fixture
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_search_for_cycles")
def test_what_has_ended_leaves_memory_at_once(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    def count() -> dict[str, int]:
        kinds = [type(thing) for thing in gc.get_objects() if type(thing) in (Ticket, Job, RowState)]
        return {kind.__name__: kinds.count(kind) for kind in (Ticket, Job, RowState)}

    engine, answers = start(engines, family), [Answer() for _ in range(4)]
    before = count()  # what other tests have left
    for n, answer in enumerate(answers[:3]):
        engine.submit(request("a", "b", seed=n, images=2), answer)
    for answer in answers[:3]:
        answer.completed()
    hold(family, gate)
    engine.cancel(engine.submit(request("c", steps=3), answers[3]))
    gate.open()
    assert isinstance(answers[3].failure(), Cancelled)
    eventually(lambda: count()["Ticket"] == before["Ticket"], "all tickets to go")
    last = Answer()
    engine.submit(request("d"), last)
    last.completed()
    eventually(lambda: count() == before, "all jobs to go, once the batch has been stepped again")


# ---- pictures ----


def test_a_picture_and_what_is_said_of_it(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family), Answer()
    engine.submit(request("a fox", size=(64, 96), steps=6, guidance=3.0, seed=7), answer)
    completed = answer.completed()
    assert levels(completed) == [level("a fox", 6, 3.0, 7)]
    assert completed.pictures[0].shape == (64, 96, 3)
    assert completed.pictures[0].dtype == np.uint8
    assert completed.seeds == (7,)
    (info,) = completed.infos
    assert list(info) == [
        "model", "width", "height", "steps", "guidance_scale", "max_sequence_length", "lora",
        "queue_ms", "encode_ms", "denoise_ms", "decode_ms", "total_ms", "mean_batch",
    ]  # fmt: skip
    assert [info[name] for name in list(info)[:7]] == ["numbers", 96, 64, 6, 3.0, 77, ""]
    assert info["mean_batch"] == 1.0
    times = [float(str(info[name])) for name in ("queue_ms", "encode_ms", "denoise_ms", "decode_ms")]
    assert all(time_ms >= 0 for time_ms in times)
    assert sum(times) <= float(str(info["total_ms"])) + 0.05, "parts of the total, but for rounding"


def test_rows_and_images_are_in_their_order(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family), Answer()
    engine.submit(request("one", "two", "three", images=2, seed=40), answer)
    completed = answer.completed()
    assert completed.seeds == (40, 41, 1040, 1041, 2040, 2041)
    prompts = ["one", "one", "two", "two", "three", "three"]
    assert levels(completed) == [
        level(prompt, 4, 2.0, seed) for prompt, seed in zip(prompts, completed.seeds, strict=True)
    ]
    assert len(completed.infos) == 3


def test_seeds_go_round_after_the_last(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family), Answer()
    engine.submit(request("one", images=2, seed=2**63 - 1), answer)
    assert answer.completed().seeds == (2**63 - 1, 0)
    assert levels(answer.completed()) == [level("one", 4, 2.0, 2**63 - 1), level("one", 4, 2.0, 0)]


def test_guidance_is_no_value_where_it_has_no_effect(engines: Engines, family: ArithmeticFamily) -> None:
    family.guided = False
    engine, answer = start(engines, family), Answer()
    engine.submit(request(), answer)
    assert answer.completed().infos[0]["guidance_scale"] is None


@pytest.mark.parametrize("scheduling", ["continuous", "static", "serial"])
def test_all_modes_draw_the_same(engines: Engines, family: ArithmeticFamily, scheduling: str) -> None:
    engine = start(engines, family, scheduling=scheduling)
    asked = [
        (request(f"p{n}", size=(64, 64 + n % 2 * 32), steps=n % 4 + 1, guidance=float(n % 3), seed=n), Answer())
        for n in range(40)
    ]
    for one, answer in asked:
        engine.submit(one, answer)
    for one, answer in asked:
        row = one.rows[0]
        assert levels(answer.completed()) == [
            level(row.prompt, row.num_inference_steps, row.guidance_scale, row.seed)
        ], one
    assert_nothing_is_left(engine)


def test_requests_join_and_leave_between_steps(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    engine, first, late = start(engines, family), Answer(), Answer()
    hold(family, gate)
    engine.submit(request("one", steps=5), first)
    gate.wait_for_calls(1)
    gate.let(1)
    engine.submit(request("two", steps=2), late)
    gate.open()
    assert levels(first.completed()) == [level("one", 5, 2.0, 5)]
    assert levels(late.completed()) == [level("two", 2, 2.0, 5)]
    assert gate.rows == [1, 1, 2, 2, 1]
    assert first.completed().infos[0]["mean_batch"] == 1.4
    assert late.completed().infos[0]["mean_batch"] == 2.0


def test_one_thread_runs_the_model(engines: Engines, family: ArithmeticFamily) -> None:
    seen: set[tuple[int, bool]] = set()

    def look(_: object) -> None:
        seen.add((threading.get_ident(), torch.is_inference_mode_enabled()))

    family.on_encode = family.on_predict = family.on_decode = look

    def load() -> ArithmeticFamily:
        look(None)
        return family

    engine, answer = engines.start(load, CONFIG), Answer()
    engine.submit(request(), answer)
    answer.completed()
    ((ident, inference),) = seen
    assert ident != threading.get_ident()
    assert inference


# ---- progress ----


def test_progress_after_each_step_and_previews_at_their_interval(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family), Answer()
    engine.submit(request("one", steps=5, progress=True, preview_interval=2, size=(128, 128)), answer)
    answer.completed()
    assert [progress.steps for progress in answer.progressed] == [(step,) for step in range(1, 6)]
    assert {progress.totals for progress in answer.progressed} == {(5,)}
    previews = {
        progress.steps[0]: picture
        for progress in answer.progressed
        for picture in progress.previews
        if picture is not None
    }
    assert list(previews) == [2, 4]
    for step, picture in previews.items():
        assert np.unique(picture).tolist() == [guess_level("one", 5, 2.0, 5, step)]
        assert picture.shape == (64, 64, 3)


def test_progress_of_several_rows_never_goes_back(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer, other = start(engines, family, max_batch=2), Answer(), Answer()
    engine.submit(request("one", "two", "three", images=2, progress=True), answer)
    engine.submit(request("four", steps=9, priority=1), other)
    answer.completed()
    steps = [progress.steps for progress in answer.progressed]
    assert all(now[row] >= before[row] for before, now in pairwise(steps) for row in range(3))
    assert steps[-1] == (4, 4, 4)
    assert all(len(progress.previews) == 6 for progress in answer.progressed)
    assert other.completed()


def test_no_progress_unless_asked_for(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family), Answer()
    engine.submit(request(preview_interval=1), answer)
    answer.completed()
    assert answer.progressed == []


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
    eventually(lambda: engine._closing, "close has begun")
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
    eventually(lambda: engine._closing, "close has begun")
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


def test_the_first_picture_is_not_counted(engines: Engines, family: ArithmeticFamily) -> None:
    metrics = Metrics()
    engine = start(engines, family, metrics)
    assert metrics.drain().counters == {}
    assert engine.limits.default_size == (64, 64)
    assert_nothing_is_left(engine)


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


# ---- metrics ----


def test_what_is_counted(engines: Engines, family: ArithmeticFamily, gate: Gate) -> None:
    metrics = Metrics()
    engine, ok, cancelled, late = start(engines, family, metrics, max_batch=2), Answer(), Answer(), Answer()
    hold(family, gate)
    engine.submit(request("one", images=2, steps=3), ok)
    gate.wait_for_calls(1)
    ticket = engine.submit(request("two", images=3), cancelled)
    engine.submit(request("three", deadline_s=0.0), late)
    engine.cancel(ticket)
    gate.open()
    for answer in (ok, cancelled, late):
        answer.outcome()
    again = Answer()
    engine.submit(request("one", steps=1), again)
    again.completed()
    engine.close()

    drained = metrics.drain()
    assert drained.counters == {
        (m.REQUESTS, "ok"): 2,
        (m.REQUESTS, "cancelled"): 1,
        (m.REQUESTS, "deadline_exceeded"): 1,
        (m.DROPPED_IMAGES, "cancelled"): 3,
        (m.DROPPED_IMAGES, "deadline_exceeded"): 1,
        (m.IMAGES, ""): 3,
        (m.STEPS, ""): 2 * 3 + 1,
        (m.REUSED_STEPS, ""): 0,
        (m.PROMPT_CACHE_HITS, ""): 2,
        (m.PROMPT_CACHE_MISSES, ""): 1,
    }
    assert set(drained.gauges.values()) == {0}
    assert drained.observations[m.BATCH, ""] == [2, 2, 2, 1]
    counts = Counter({metric.name: len(values) for (metric, _), values in drained.observations.items()})
    assert counts == {
        "flux_queue_ms": 3, "flux_encode_ms": 2, "flux_step_ms": 4, "flux_step_batch_size": 4, "flux_decode_ms": 2,
        "flux_total_ms": 2,
    }  # fmt: skip


def test_capacity_from_the_free_memory(
    engines: Engines, family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[torch.device, int, int]] = []

    def fits(device: torch.device, job_bytes: int, max_batch: int) -> int:
        asked.append((device, job_bytes, max_batch))
        return 21

    monkeypatch.setattr("fluxengine.engine.automatic_max_in_flight", fits)
    engine = engines.start(lambda: family, replace(CONFIG, max_in_flight=None, max_batch=2))
    assert engine.max_in_flight == 21
    latents, text = 16 * 4 * 4, 4  # [16, 4] and [1] numbers of 4 bytes
    assert asked == [(family.device, latents + text, 2)], "once, after the first picture"


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
