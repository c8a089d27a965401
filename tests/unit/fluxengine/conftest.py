from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fluxengine.config import EngineConfig
from fluxengine.engine import Engine
from fluxengine.family import Family
from fluxengine.metrics import Metrics
from tests.checkpoints import make_checkpoint
from tests.unit.fluxengine.answers import Gate


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Pictures are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def guided_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("guided"), guided=True)


@pytest.fixture(scope="session")
def distilled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("distilled"), guided=False)


@pytest.fixture(scope="session", params=["guided", "distilled"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Each of both kinds: FLUX.1 [dev] and [schnell]."""
    folder: Path = request.getfixturevalue(f"{request.param}_checkpoint")
    return folder


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


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    engines.close()


@pytest.fixture
def gate(engines: Engines) -> Iterator[Gate]:
    """Opened before the engines are closed, as an engine that is held cannot end."""
    gate = Gate()
    yield gate
    gate.open()
