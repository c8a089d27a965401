"""Watches the machine, the server's processes and its metrics from a thread of its own while load runs."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import suppress
from dataclasses import replace

import psutil

from loadtest.server.engine_metrics import Scrape, between, scrape
from loadtest.server.gpus import Gpus
from loadtest.server.moment import Moment, Reading, readings
from loadtest.server.target import Target
from loadtest.server.use import Use

INTERVAL_S = 0.5
PUBLISHED_S = 0.7
"""The engine publishes its counters twice a second."""


class Monitor:
    """As a context manager, watches until its end; `use` then says what it saw within a span of time."""

    def __init__(self, target: Target, gpus: Gpus) -> None:
        self._target = target
        self._local = target.is_local
        self._gpus = gpus
        self._processes = target.processes()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._moments: list[Moment] = []  # the thread's until it is joined

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def use(self, start: float, end: float) -> Use:
        """Between these times, in seconds since the epoch. To be called after the end."""
        inside = [moment.scrape for moment in self._between(start, end) if moment.scrape is not None]
        last = self._moments[-1].scrape if self._moments else None  # tells what the engine has done in the end
        use = Use.of(self.readings(start, end), "", between(inside[0], last) if inside and last else None)
        if self._local:
            return replace(use, gpu_note=", ".join(self._gpus.names) or self._gpus.why_none)
        seen = use.gpu_percent is not None
        return replace(use, gpu_note="as the server's metrics say" if seen else "the server's metrics name no GPU")

    def readings(self, start: float, end: float) -> list[Reading]:
        """As `use`, one after another."""
        return list(readings(self._between(start, end), local=self._local))

    def _between(self, start: float, end: float) -> list[Moment]:
        """With the last one before."""
        before = [moment for moment in self._moments if moment.at <= start][-1:]
        return before + [moment for moment in self._moments if start < moment.at <= end + INTERVAL_S]

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._moments.append(self._look())
            self._stopped.wait(INTERVAL_S)
        time.sleep(PUBLISHED_S)  # so that the last look sees all that the engine has done
        self._moments.append(self._look())

    def _look(self) -> Moment:
        cpu = psutil.cpu_times()
        busy = sum(cpu) - cpu.idle - getattr(cpu, "iowait", 0.0) - getattr(cpu, "guest", 0.0)
        server_cpu_s: dict[int, float] = {}
        server_memory = 0
        for process in self._processes:
            with suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                server_cpu_s[process.pid] = times.user + times.system
                server_memory += process.memory_info().rss
        seen: Scrape | None = None
        # A server without metrics, or one that is just dying, gives none.
        with suppress(OSError, ValueError, http.client.HTTPException):
            seen = scrape(self._target.metrics_url, self._target.model)
        return Moment(
            at=time.time(),
            busy_s=busy,
            all_s=sum(cpu) - getattr(cpu, "guest", 0.0),
            memory_percent=psutil.virtual_memory().percent,
            server_cpu_s=server_cpu_s,
            server_memory_bytes=server_memory if self._processes else None,
            gpu=self._gpus.use() if self._local else None,
            scrape=seen,
        )
