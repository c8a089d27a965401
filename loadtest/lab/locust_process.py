"""Locust as a process of its own, headless, for as long as one measurement lasts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.failures import Broken
from loadtest.server.target import Target
from loadtest.traffic.record import Record
from loadtest.traffic.samples import read_samples
from tools.triton.installation import PROJECT

LOCUSTFILE = PROJECT / "loadtest" / "locustfile.py"
POLL_S = 0.1
HEALTH_S = 1.0
DEAD_S = 3.0
"""A server that has not been ready for so long is taken for dead."""
GRACE_S = 30.0
"""How long Locust may take beyond the time-out of a request: to start, and to end."""
STOP_S = 10.0
QUOTED_LINES = 6
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    protocol: str
    mix: str
    seed: int
    requests: int
    concurrent: int
    rate: float | None = None
    """Requests a second of an open loop with Poisson arrivals; None: `concurrent` users who wait for their answers."""
    request_timeout_s: float = 120.0
    check_prompts: bool = False

    def options(self) -> Iterator[str]:
        """Those of locustfile.py."""
        yield from ("--protocol", self.protocol, "--mix", self.mix, "--mix-seed", str(self.seed))
        yield from ("--requests", str(self.requests), "--request-timeout", f"{self.request_timeout_s:g}")
        yield from ("--users", str(self.concurrent), "--spawn-rate", str(self.concurrent))
        if self.rate is not None:
            yield from ("--arrivals", "poisson", "--rate", f"{self.rate:g}")
        if self.check_prompts:
            yield "--check-prompts"

    def one_at_a_time(self, requests: int) -> Load:
        return replace(self, requests=requests, concurrent=1, rate=None)


class LocustRun:
    """One run, as a context manager: begun inside, and nothing of it is left running after.

    `records` and, beside it, Locust's own log are written as requests end, so they hold what there was until then.
    """

    def __init__(self, target: Target, load: Load, records: Path) -> None:
        self.load = load
        self.records = records
        self._target = target
        self._log = records.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocustRun:
        self.records.parent.mkdir(parents=True, exist_ok=True)
        self.records.unlink(missing_ok=True)
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--host", self._target.http_url, "--grpc", self._target.grpc, "--model", self._target.model]
        command += self.load.options()
        command += ["--records", str(self.records.resolve())]
        if self._target.gateway_url:
            command += ["--gateway-url", self._target.gateway_url]
        paths = [str(PROJECT), str(PROJECT / "client"), os.environ.get("PYTHONPATH", "")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for the lab, which then stops this
                preexec_fn=_end_with_the_lab,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
                return

    def wait(self, is_ready: Callable[[], bool], on_progress: Callable[[int], None]) -> str:
        """Waits for Locust's end. Returns why the measurement is not whole, or nothing.

        `is_ready` says whether the server serves; `on_progress` is told how many requests have ended. Raises Broken,
        with Locust's words, if it did not send anything.
        """
        assert self._process is not None
        done, news_at = 0, time.monotonic()
        ready_at = looked_at = news_at
        while self._process.poll() is None:
            time.sleep(POLL_S)
            now = time.monotonic()
            ended = self._count()
            if ended != done:
                done, news_at = ended, now
                on_progress(done)
            if now - looked_at > HEALTH_S:
                looked_at = now
                ready_at = now if is_ready() else ready_at
                if now - ready_at > DEAD_S:
                    return f"the server is not ready any more ({done} of {self.load.requests} requests had ended)"
            if now - news_at > self.load.request_timeout_s + GRACE_S:
                return f"no request ended for {now - news_at:.0f} s ({done} of {self.load.requests} had)"
        done = self._count()
        on_progress(done)
        if done == 0:
            raise Broken(f"Locust ended with code {self._process.returncode} and sent nothing: {self._last_words()}")
        if done < self.load.requests:
            return f"Locust ended after {done} of {self.load.requests} requests: {self._last_words()}"
        return "" if is_ready() else "the server is not ready any more"

    def samples(self) -> list[Record]:
        """Of all requests that have ended. Raises Broken if there is something else in the file."""
        try:
            return read_samples(self.records)
        except (ValueError, TypeError) as error:
            raise Broken(f"{self.records} has a record that cannot be read: {error!r}") from error

    def _count(self) -> int:
        try:
            return self.records.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-QUOTED_LINES:])


def _end_with_the_lab() -> None:
    """Runs in the child: a lab that is killed must not leave a load behind that nobody looks at."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
