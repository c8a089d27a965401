"""Engines for one test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fluxengine.config import EngineConfig
from fluxengine.device.executor import Executor
from fluxengine.engine import Engine
from fluxengine.families.base import Family
from fluxengine.metrics import Metrics
from fluxengine.reply import Completed
from tests.unit.fluxengine.answers import Gate
from tests.unit.fluxengine.arithmetic import ArithmeticFamily

CONFIG = EngineConfig(model="numbers", max_batch=4)


class Engines:
    """Starts engines, and closes them when the test is over."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []

    def start(
        self, load: Callable[[], Family], config: EngineConfig | None = None, metrics: Metrics | None = None
    ) -> Engine:
        engine = self.make(load, config, metrics)
        engine.start()
        return engine

    def make(
        self, load: Callable[[], Family], config: EngineConfig | None = None, metrics: Metrics | None = None
    ) -> Engine:
        config = config or EngineConfig()
        engine = Engine(config, Executor(config, load), metrics or Metrics())
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


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
    assert (engine._room.images, engine._room.upload_bytes) == (0, 0)
    assert not engine._tickets
    assert (engine._scheduler.waiting, engine._scheduler.running) == (0, 0)
    assert engine._scheduler._groups == {}
    assert engine._executor._runner._rows == {}
