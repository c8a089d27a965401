"""Locust as a process of its own, headless, for as long as one measurement lasts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loadtest.failures import Broken
from loadtest.lab.load import Load
from loadtest.server.target import Target
from loadtest.traffic.record import Record, read_records
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


class LocustProcess:
    """As a context manager: begun inside, and nothing of it is left running after.

    `file` has the records. It and, beside it, Locust's own log are written as requests end, so they hold what there was
    until then.
    """

    def __init__(self, target: Target, load: Load, file: Path) -> None:
        self.load = load
        self.file = file
        self._target = target
        self._log = file.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocustProcess:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--host", self._target.http_url, "--grpc", self._target.grpc, "--model", self._target.model]
        command += self.load.options()
        command += ["--records", str(self.file.resolve())]
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

    def records(self) -> list[Record]:
        """Of all requests that have ended. Raises Broken if there is something else in the file."""
        try:
            return read_records(self.file)
        except (ValueError, TypeError) as error:
            raise Broken(f"{self.file} has a record that cannot be read: {error!r}") from error

    def _count(self) -> int:
        try:
            return self.file.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-QUOTED_LINES:])


def _end_with_the_lab() -> None:
    """Runs in the child: a lab that is killed must not leave a load behind that nobody looks at."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
