"""Requests that need a LoRA or a picture first: in an engine, with a family whose pictures can be worked out."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluxengine import metrics as m
from fluxengine.config import EngineConfig
from fluxengine.engine import Engine
from fluxengine.errors import Cancelled, DeadlineExceeded, InvalidArgument, NotFound, Overloaded
from fluxengine.metrics import Metrics
from fluxengine.wire.picture_files import encode_picture
from tests.unit.fluxengine.answers import PATIENCE_S, Answer, Gate, eventually, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, level
from tests.unit.fluxengine.engines import Engines, assert_nothing_is_left, hold

NAMES = ("a", "bb", "ccc", "dddd")
PICTURE = encode_picture(np.zeros((64, 64, 3), np.uint8), "png")


@pytest.fixture
def family() -> ArithmeticFamily:
    return ArithmeticFamily()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "broken.safetensors").write_text("no LoRA")
    return tmp_path


class Held:
    """Loading, held until it is let go."""

    def __init__(self, family: ArithmeticFamily, *names: str) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self._names = names
        family.on_load_lora = self

    def __call__(self, name: str) -> None:
        if name in self._names:
            self.begun.set()
            assert self.go.wait(PATIENCE_S)


def start(engines: Engines, family: ArithmeticFamily, folder: Path, max_loras: int = 2, **options: object) -> Engine:
    config = replace(EngineConfig(lora_dir=str(folder), max_loras=max_loras, num_threads=1), **options)  # type: ignore[arg-type]
    return engines.start(lambda: family, config)


def expected(letters: float, steps: int = 4) -> int:
    """Of `request()`: each step adds as much for a LoRA as its name has letters, times its scale."""
    return level("a fox", steps, 2.0 + letters, 5)


def shade(answer: Answer) -> int:
    return int(answer.completed().pictures[0].max())


def test_each_gets_its_own(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    engine, both, plain, scaled = start(engines, family, folder), Answer(), Answer(), Answer()
    engine.submit(request(loras=(("a", 1.0), ("bb", 1.0))), both)
    engine.submit(request(), plain)
    engine.submit(request(loras=(("bb", 2.0),)), scaled)
    assert [shade(answer) for answer in (both, plain, scaled)] == [expected(3), expected(0), expected(4)]


def test_nobody_waits_for_the_reading_of_another(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    held = Held(family, "a")
    engine, slow, quick, other = start(engines, family, folder), Answer(), Answer(), Answer()
    engine.submit(request(loras=(("a", 1.0),)), slow)
    assert held.begun.wait(PATIENCE_S)
    engine.submit(request(), quick)
    engine.submit(request(loras=(("bb", 1.0),)), other)
    assert (shade(quick), shade(other)) == (expected(0), expected(2))
    assert not slow.outcomes
    held.go.set()
    assert shade(slow) == expected(1)


def test_more_loras_than_there_is_room_for(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    engine = start(engines, family, folder, max_loras=1)
    answers = [(len(name), Answer()) for name in NAMES * 3]
    for letters, answer in answers:
        engine.submit(request(loras=((NAMES[letters - 1], 1.0),)), answer)
    assert [shade(answer) for _, answer in answers] == [expected(letters) for letters, _ in answers]
    assert engine._preparation.library.loaded == 1


def test_a_broken_file_fails_its_request_alone(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    engine, bad, good = start(engines, family, folder), Answer(), Answer()
    engine.submit(request(loras=(("broken", 1.0),)), bad)
    engine.submit(request(loras=(("a", 1.0),)), good)
    failure = bad.failure()
    assert isinstance(failure, InvalidArgument)
    assert failure.problem == "'broken' is broken"
    assert shade(good) == expected(1)
    eventually(lambda: engine.in_flight == 0, "its place is free")


def test_a_file_that_went_while_it_waited(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    held = Held(family, "a")
    engine, first, second = start(engines, family, folder, max_loras=1), Answer(), Answer()
    engine.submit(request(loras=(("a", 1.0),)), first)
    assert held.begun.wait(PATIENCE_S)
    engine.submit(request(loras=(("bb", 1.0),)), second)
    eventually(lambda: engine._preparation.waiting == 2, "both are known")
    (folder / "bb.safetensors").unlink()
    held.go.set()
    assert shade(first) == expected(1)
    assert isinstance(second.failure(), NotFound)


def test_it_is_cancelled_or_too_late_like_any_other(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    held = Held(family, "a")
    engine, cancelled, late, waits = start(engines, family, folder, max_loras=1), Answer(), Answer(), Answer()
    engine.submit(request(loras=(("a", 1.0),), deadline_s=0.05), late)
    ticket = engine.submit(request(loras=(("a", 1.0),)), cancelled)
    engine.submit(request(loras=(("bb", 1.0),)), waits)
    assert held.begun.wait(PATIENCE_S)
    assert isinstance(late.failure(), DeadlineExceeded), "also while there is nothing else to do"
    engine.cancel(ticket)
    assert isinstance(cancelled.failure(), Cancelled)
    held.go.set()
    assert shade(waits) == expected(2), "nobody holds the only place any more"


def test_closing_ends_it(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    held = Held(family, "a")
    engine, answer = start(engines, family, folder), Answer()
    engine.submit(request(loras=(("a", 1.0),)), answer)
    assert held.begun.wait(PATIENCE_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert isinstance(answer.failure(), Cancelled)
    held.go.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


def test_an_idle_engine_sleeps(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    """While a file is being read there is nothing to plan."""
    held = Held(family, "a")
    engine, answer = start(engines, family, folder), Answer()
    engine.submit(request(loras=(("a", 1.0),)), answer)
    assert held.begun.wait(PATIENCE_S)
    plans = 0
    plan = engine._scheduler.plan

    def counted() -> object:
        nonlocal plans
        plans += 1
        return plan()

    engine._scheduler.plan = counted  # type: ignore[method-assign, assignment]
    threading.Event().wait(0.2)  # nothing is awaited here: nothing shall happen
    assert plans <= 2
    held.go.set()
    assert shade(answer) == expected(1)


def test_what_is_measured(engines: Engines, family: ArithmeticFamily, folder: Path) -> None:
    metrics, answer = Metrics(), Answer()
    config = EngineConfig(lora_dir=str(folder), num_threads=1)
    engine = engines.start(lambda: family, config, metrics)
    engine.submit(request(loras=(("a", 1.0),)), answer)
    answer.completed()
    engine.close()
    gauges = metrics.drain().gauges
    assert (gauges[m.LORAS, ""], gauges[m.PREPARING, ""]) == (1, 0)


def test_who_needs_no_lora_does_not_wait_for_the_places_of_loras(
    engines: Engines, family: ArithmeticFamily, folder: Path
) -> None:
    held = Held(family, "a")
    engine, holder, waiter, quick = start(engines, family, folder, max_loras=1), Answer(), Answer(), Answer()
    engine.submit(request(loras=(("a", 1.0),)), holder)
    assert held.begun.wait(PATIENCE_S)
    engine.submit(request(loras=(("bb", 1.0),)), waiter)
    engine.submit(request(image=PICTURE, strength=0.5), quick)
    quick.completed()
    assert not holder.outcomes and not waiter.outcomes
    held.go.set()
    assert (shade(holder), shade(waiter)) == (expected(1), expected(2))


def test_files_and_pictures_are_let_go_once_they_are_latents(
    engines: Engines, family: ArithmeticFamily, folder: Path, gate: Gate
) -> None:
    engine, answer = start(engines, family, folder), Answer()
    hold(family, gate)
    ticket = engine.submit(request(image=PICTURE, strength=1.0, images=2), answer)
    gate.wait_for_calls(1)
    assert ticket.request.rows_with_images == ()
    assert [job.source for job in ticket.jobs] == [None, None]
    assert (engine._room.upload_bytes, engine.in_flight) == (0, 2)
    gate.open()
    answer.completed()


def test_uploads_beyond_the_bound_are_refused_until_others_are_latents(
    engines: Engines, family: ArithmeticFamily, folder: Path
) -> None:
    held, large = Held(family, "a"), PICTURE + bytes(2**20)
    engine, first, second = start(engines, family, folder, max_upload_mb=1), Answer(), Answer()
    engine.submit(request(image=large, loras=(("a", 1.0),)), first)
    assert held.begun.wait(PATIENCE_S)
    with pytest.raises(Overloaded, match="max_upload_mb is 1"):
        engine.submit(request(image=large), Answer())
    held.go.set()
    first.completed()
    engine.submit(request(image=large), second)
    second.completed()
    assert_nothing_is_left(engine)
