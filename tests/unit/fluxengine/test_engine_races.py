"""Many threads at once: whatever they do and in whatever order, each request is answered exactly once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from fluxengine.config import EngineConfig
from fluxengine.engine import Engine
from fluxengine.errors import Cancelled, DeadlineExceeded, FluxError, Internal
from fluxengine.wire.request import GenerateRequest
from tests.unit.fluxengine.answers import Answer, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, level, text_value
from tests.unit.fluxengine.engines import Engines, assert_nothing_is_left

THREADS = 8
REQUESTS = 150
"""of each thread"""

Asked = list[tuple[GenerateRequest, Answer]]


def one_at_random(choose: random.Random) -> GenerateRequest:
    return request(
        choose.choice(("one", "two", "three", "four", "poison") if choose.random() < 0.2 else ("one", "two", "three")),
        size=choose.choice(((64, 64), (64, 96))),
        steps=choose.randint(1, 4),
        guidance=float(choose.randint(0, 5)),
        seed=choose.randrange(2**63),
        images=choose.choice((1, 1, 2)),
        progress=choose.random() < 0.3,
        preview_interval=choose.randint(0, 2),
        priority=choose.randint(1, 4),
        deadline_s=choose.choice((None, None, None, 0.0, 0.01, 30.0)),
    )


def hammer(engine: Engine, seed: int, asked: Asked) -> None:
    """Submits, and cancels some at once, some later, some twice, some after their end."""
    choose = random.Random(seed)
    to_cancel = []
    for _ in range(REQUESTS):
        one, answer = one_at_random(choose), Answer()
        asked.append((one, answer))
        ticket = engine.submit(one, answer, patience_s=60.0)
        if choose.random() < 0.2:
            to_cancel.append(ticket)
        while to_cancel and choose.random() < 0.3:
            engine.cancel(choose.choice(to_cancel))
        if choose.random() < 0.05:
            time.sleep(0.001)


def start(engines: Engines, scheduling: str) -> tuple[Engine, list[threading.Thread], Asked]:
    family = ArithmeticFamily()
    engine = engines.start(lambda: family, EngineConfig(scheduling=scheduling, max_batch=4, max_in_flight=16))
    poison = text_value("poison")

    def fail(texts: list[int]) -> None:
        if poison in texts:
            raise ValueError("a strange number")

    family.on_predict = fail
    asked: Asked = []
    threads = [threading.Thread(target=hammer, args=(engine, seed, asked)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    return engine, threads, asked


def check(asked: Asked) -> Counter[str]:
    """Each answer is the only one and the right one. Returns how many of each kind there were."""
    kinds: Counter[str] = Counter()
    for one, answer in asked:
        outcome = answer.outcome()
        kinds[type(outcome).__name__] += 1
        row = one.rows[0]
        if isinstance(outcome, FluxError):
            assert isinstance(outcome, Cancelled | DeadlineExceeded | Internal)
            assert not isinstance(outcome, Internal) or row.prompt == "poison"
            continue
        assert row.prompt != "poison"
        assert [picture.max() for picture in outcome.pictures] == [
            level(row.prompt, row.num_inference_steps, row.guidance_scale, seed) for seed in outcome.seeds
        ]
        steps = [progress.steps[0] for progress in answer.progressed]
        assert steps == sorted(steps)
        assert (steps[-1:] == [row.num_inference_steps]) == one.progress
    assert all(len(answer.outcomes) == 1 for _, answer in asked)
    return kinds


@pytest.mark.parametrize("scheduling", ["continuous", "static", "serial"])
def test_every_request_is_answered_once(engines: Engines, scheduling: str) -> None:
    engine, threads, asked = start(engines, scheduling)
    for thread in threads:
        thread.join()
    kinds = check(asked)
    assert len(asked) == THREADS * REQUESTS
    assert min(kinds[name] for name in ("Completed", "Cancelled", "DeadlineExceeded", "Internal")) > 0, kinds
    engine.close()
    assert_nothing_is_left(engine)
    check(asked)


def test_every_request_is_answered_once_when_the_engine_closes_meanwhile(engines: Engines) -> None:
    engine, threads, asked = start(engines, "continuous")
    while sum(bool(answer.outcomes) for _, answer in list(asked)) < THREADS * REQUESTS // 4:
        time.sleep(0.002)
    engine.close()
    for thread in threads:
        thread.join()
    kinds = check(asked)
    assert len(asked) == THREADS * REQUESTS
    assert min(kinds["Completed"], kinds["Cancelled"]) > 0
    assert_nothing_is_left(engine)
