"""Pictures, progress and metrics of an engine that all goes well with."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fluxengine import metrics as m
from fluxengine.device.latent_batch import RowState
from fluxengine.errors import Cancelled
from fluxengine.job import Job, Ticket
from fluxengine.metrics import Metrics
from tests.unit.fluxengine.answers import Answer, Gate, eventually, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, guess_level, level
from tests.unit.fluxengine.engines import CONFIG, Engines, assert_nothing_is_left, hold, levels, start


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


def test_the_end_of_a_prompt_that_has_no_room_is_told(engines: Engines, family: ArithmeticFamily) -> None:
    engine, answer = start(engines, family), Answer()
    engine.submit(request("a" * 77, "b" * 77 + "the end", "c" * 500), answer)
    first, second, third = answer.completed().infos
    assert "truncated" not in first
    assert second["truncated"] == {"prompt": {"text_encoder": "the end"}}
    assert third["truncated"] == {"prompt": {"text_encoder": "c" * 199 + "…"}}
    answer = Answer()
    engine.submit(request("a", negative_prompt="n" * 78, true_cfg_scale=2.0), answer)
    assert answer.completed().infos[0]["truncated"] == {"negative_prompt": {"text_encoder": "n"}}


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


def test_the_first_picture_is_not_counted(engines: Engines, family: ArithmeticFamily) -> None:
    metrics = Metrics()
    engine = start(engines, family, metrics)
    assert metrics.drain().counters == {}
    assert engine.limits.default_size == (64, 64)
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

    monkeypatch.setattr("fluxengine.device.executor.automatic_max_in_flight", fits)
    engine = engines.start(lambda: family, replace(CONFIG, max_in_flight=None, max_batch=2))
    assert engine._room.max_images == 21
    latents, text = 16 * 4 * 4, 4  # [16, 4] and [1] numbers of 4 bytes
    assert asked == [(family.device, latents + text, 2)], "once, after the first picture"
