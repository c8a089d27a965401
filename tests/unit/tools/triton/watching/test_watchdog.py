"""What the watchdog says and leaves alone. tests/server has it mend a real Triton."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from tools.triton.api import JSON, ApiError
from tools.triton.server import TritonServer
from tools.triton.stub import Stub
from tools.triton.watching.watchdog import Watchdog

CONFIGURATION: JSON = {
    "backend": "python",
    "instance_group": [{"name": "group", "count": 1}],
    "input": [
        {"name": name} for name in ("prompt", "height", "width", "num_inference_steps", "priority", "deadline_ms")
    ],
}


class Server(TritonServer):
    """One with two models that have lost their stubs, and an API that is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.on_load: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    @property
    def api(self) -> Server:  # type: ignore[override]
        return self

    def stubs(self) -> list[Stub]:
        return []

    def index(self) -> list[JSON]:
        self.calls.append("index")
        if self.error is not None:
            raise self.error
        return [{"name": name, "state": "READY"} for name in ("one", "two")]

    def configuration(self, model: str) -> JSON:
        return CONFIGURATION

    def unload(self, model: str, timeout_s: float = 0) -> None:
        self.calls.append("unload")

    def load(self, model: str, *_: object, **__: object) -> None:
        self.calls.append("load")
        self.on_load()

    def generate(self, model: str, inputs: JSON, timeout_s: float) -> JSON:
        raise ApiError("FLUX_INVALID_ARGUMENT")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_watchdog_that_was_stopped_in_the_midst_of_a_load_loads_nothing_more() -> None:
    server = Server()
    loading, goes_on = threading.Event(), threading.Event()

    def load() -> None:
        loading.set()
        goes_on.wait(10)

    server.on_load = load
    with Watchdog(server, interval_s=0.01, settle_s=0.0):
        assert loading.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 1, "nobody waits for it"
    goes_on.set()
    wait_for(lambda: not any(thread.name == "triton-watchdog" for thread in threading.enumerate()))
    assert server.calls.count("load") == 1


def test_a_fault_in_a_look_is_told_once_and_the_looks_go_on(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.error = KeyError("state")
    with Watchdog(server, interval_s=0.01, settle_s=0.0) as watchdog:
        wait_for(lambda: len(server.calls) > 3)
        assert messages(caplog) == ["the watchdog failed, and tries again"]
        assert caplog.records[0].exc_info
        server.error = None
        wait_for(lambda: watchdog.reloads > 0)


def test_a_watchdog_that_may_not_look_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.error = ApiError("This API is restricted")
    with Watchdog(server, interval_s=0.01, blind_s=0.2):
        wait_for(lambda: len(server.calls) > 3)
        assert messages(caplog) == []
        wait_for(lambda: messages(caplog) != [])
        seen = len(server.calls)
        wait_for(lambda: len(server.calls) > seen + 3)
    assert messages(caplog) == ["nobody watches over the models, as the server cannot be asked: This API is restricted"]
