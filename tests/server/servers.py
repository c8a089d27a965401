"""Tritons that tests start, and what is waited for on them."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytest

from tests.server import wire
from tools.triton.server import TritonServer

RUNNING: list[TritonServer] = []
"""Those whose logs belong to the report of a test that fails."""

FALLEN: list[tuple[str, str]] = []
"""(URL, log) of those that a failure of the running test has ended, which belong there as well."""

ENGINE = {
    "default_size": "128x128",
    "max_size": "256x256",
    "default_steps": "4",
    "max_steps": "1000",
    "max_sequence_length": "64",
}
"""Parameters that make a random checkpoint quick to serve."""

ON_ANY_MACHINE = {"FLUX_DTYPE": "float32", "FLUX_NUM_THREADS": "1"}
"""What would otherwise go by the processor and its cores. References are drawn in float32."""

LOG_LINES = 80
"""How much of a server's log a report shows."""

T = TypeVar("T")


def environment(**parameters: str) -> dict[str, str]:
    """The variables of a server for these parameters, on top of ENGINE."""
    return {f"FLUX_{name.upper()}": value for name, value in {**ENGINE, **parameters}.items()}


@contextmanager
def started(**options: Any) -> Iterator[TritonServer]:
    """A server for as long as the context lasts. `options` are those of TritonServer.

    It has the variables ON_ANY_MACHINE, unless its environment says otherwise.

    Its end is not waited for long: Triton 24.10 never lets go of a model once a stream was cancelled just as its last
    response was on the way, as some tests here do.
    """
    variables = {**ON_ANY_MACHINE, **options.pop("environment", {})}
    with TritonServer(**{"exit_timeout_s": 2, **options}, environment=variables) as server:
        RUNNING.append(server)
        try:
            yield server
        except BaseException:
            FALLEN.append((server.urls.http, server.log_tail(LOG_LINES)))
            raise
        finally:
            RUNNING.remove(server)


def outliving(test: Callable[[TritonServer], None], **options: Any) -> None:
    """Runs a test that kills a model's process, on a server of its own, which has to outlive the process.

    Where the process held a lock that both share (one kill in twenty while it sends events), Triton 24.10 aborts:
    "boost::interprocess::lock_exception". Then there is nothing left to test, and it is done again.
    """
    for _ in range(5):
        with started(**options) as server:
            try:
                return test(server)
            except Exception:
                with suppress(AssertionError):
                    until(lambda: server.poll() is not None, "the end of the server", timeout_s=2)
                if server.poll() is None or "lock_exception" not in server.log_tail(LOG_LINES):
                    raise
    pytest.fail("Triton fell with the process of its model each time")


def http(server: TritonServer) -> str:
    return server.urls.http.removeprefix("http://")


def grpc(server: TritonServer) -> str:
    return server.urls.grpc.removeprefix("grpc://")


def until(condition: Callable[[], T | None], what: str, timeout_s: float = wire.ANSWER_S) -> T:
    """Polls until `condition` gives something true, and returns that."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return value


def samples(exposition: str) -> list[tuple[str, dict[str, str], float]]:
    """(metric, labels, value) of each line of Prometheus' text format that has labels."""
    found = []
    for line in exposition.splitlines():
        sample = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
        if sample:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', sample[2]))
            found.append((sample[1], labels, float(sample[3])))
    return found


class Measured:
    """What /metrics said at one moment."""

    def __init__(self, server: TritonServer) -> None:
        with urllib.request.urlopen(server.urls.metrics, timeout=wire.ANSWER_S) as response:
            self.samples = samples(response.read().decode())

    def total(self, metric: str, labels: Mapping[str, str] | None = None) -> float:
        """The sum over all series of `metric` that have these labels; 0 while there is none."""
        wanted = (labels or {}).items()
        return sum(value for name, its, value in self.samples if name == metric and wanted <= its.items())

    def by(self, metric: str, label: str) -> dict[str, float]:
        """The values of `metric` by one of its labels."""
        return {labels[label]: value for name, labels, value in self.samples if name == metric}


def settled(server: TritonServer) -> Measured:
    """What the engine has measured, with all that it did before this call.

    It publishes twice a second; a request that is refused at once, twice, tells when it has.
    """
    _publish(server)
    _publish(server)
    return Measured(server)


def _publish(server: TritonServer) -> None:
    def refused() -> float:
        return Measured(server).total("flux_requests_total", {"outcome": "invalid_argument"})

    before = refused()
    wire.grpc_stream(grpc(server), {"prompt": ""})
    until(lambda: refused() > before, "the engine to publish its metrics")


def until_idle(server: TritonServer) -> Measured:
    """Waits until the engine has nothing in flight. Whoever calls this knows that all requests have been taken."""

    def idle() -> Measured | None:
        measured = settled(server)
        jobs = measured.total("flux_jobs_running") + measured.total("flux_jobs_waiting")
        return measured if jobs == 0 else None

    return until(idle, "nothing in flight")
