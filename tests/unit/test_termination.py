from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from termination import Termination

from tests.unit.fluxengine.answers import PATIENCE_S


class Engine:
    def __init__(self) -> None:
        self.drained = threading.Event()
        self.gave_up = threading.Event()

    def drain(self) -> None:
        self.drained.set()

    def give_up(self) -> None:
        assert self.drained.is_set()
        self.gave_up.set()


@pytest.fixture(autouse=True)
def handler_of_this_test_alone() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_drains_and_gives_up_what_takes_too_long() -> None:
    engine = Engine()
    termination = Termination(engine, drain_s=0.01)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGTERM)
    assert engine.gave_up.wait(PATIENCE_S)
    os.kill(os.getpid(), signal.SIGTERM)  # and again, which changes nothing
    termination.close()


def test_a_process_whose_server_goes_on_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes nothing any more: somebody has to load the model again."""
    engine, ended = Engine(), threading.Event()
    monkeypatch.setattr("termination.LAST_S", 0.0)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    termination = Termination(engine, drain_s=0.0)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGTERM)
    assert ended.wait(PATIENCE_S)
    assert engine.gave_up.is_set()
    termination.close()


def test_what_ends_in_time_is_not_given_up() -> None:
    engine = Engine()
    termination = Termination(engine, drain_s=PATIENCE_S)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGTERM)
    assert engine.drained.wait(PATIENCE_S)
    termination.close()
    assert not engine.gave_up.is_set()


def test_other_signals_and_none_do_nothing() -> None:
    engine = Engine()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    termination = Termination(engine, drain_s=0.0)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGUSR1)
    termination.close()
    signal.signal(signal.SIGUSR1, before)
    assert not engine.drained.is_set()
