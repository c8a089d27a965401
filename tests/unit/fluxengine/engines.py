"""Engines for one test."""

from __future__ import annotations

from collections.abc import Callable

from fluxengine.config import EngineConfig
from fluxengine.engine import Engine
from fluxengine.family import Family
from fluxengine.metrics import Metrics


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
        engine = Engine(config or EngineConfig(), load, metrics or Metrics())
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            engine.close()
