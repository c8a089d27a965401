"""Watches the machine, the server's processes and its metrics from a thread of its own while load runs."""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from loadtest.server.engine_metrics import Engine, Scrape, between, scrape
from loadtest.server.gpus import Gpus
from loadtest.server.moment import Moment, Reading, readings
from loadtest.server.target import Target

INTERVAL_S = 0.5
PUBLISHED_S = 0.7
"""The engine publishes its counters twice a second."""


@dataclass(frozen=True, slots=True)
class Use:
    """Of one run, or the mean of several. None: it could not be seen from here."""

    gpu_percent: float | None = None
    gpu_memory_percent: float | None = None
    """The highest seen."""
    gpu_note: str = ""
    """Which GPUs, or why there are none."""
    cpu_percent: float | None = None
    """Of the server's whole machine, whatever else runs there."""
    memory_percent: float | None = None
    """The highest seen, of the server's machine."""
    server_cpu_percent: float | None = None
    """What the server's processes take of all cores."""
    server_memory_mb: float | None = None
    """The highest seen."""
    waiting: float | None = None
    """Images in the engine's queue, on average."""
    running: float | None = None
    engine: Engine | None = None

    @property
    def utilisation_percent(self) -> float | None:
        """The GPUs', or the CPU's in their place: the server's share where that was seen, else the machine's."""
        if self.gpu_percent is not None:
            return self.gpu_percent
        return self.server_cpu_percent if self.server_cpu_percent is not None else self.cpu_percent

    @property
    def utilisation_of(self) -> str:
        if self.gpu_percent is not None:
            return "GPU"
        return "server's CPU" if self.server_cpu_percent is not None else "machine's CPU"

    @classmethod
    def mean(cls, uses: Sequence[Use]) -> Use:
        """Over runs of the same strategy: means, but for memory the highest, and what the engine did added up."""
        engines = [use.engine for use in uses if use.engine is not None]
        return cls(
            gpu_percent=_over(statistics.fmean, (use.gpu_percent for use in uses)),
            gpu_memory_percent=_over(max, (use.gpu_memory_percent for use in uses)),
            gpu_note=uses[0].gpu_note if uses else "",
            cpu_percent=_over(statistics.fmean, (use.cpu_percent for use in uses)),
            memory_percent=_over(max, (use.memory_percent for use in uses)),
            server_cpu_percent=_over(statistics.fmean, (use.server_cpu_percent for use in uses)),
            server_memory_mb=_over(max, (use.server_memory_mb for use in uses)),
            waiting=_over(statistics.fmean, (use.waiting for use in uses)),
            running=_over(statistics.fmean, (use.running for use in uses)),
            engine=Engine.total(engines) if engines else None,
        )


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
        note = ", ".join(self._gpus.names) or self._gpus.why_none
        inside = self._between(start, end)
        return _use(inside, self._moments[-1:], local=self._local, note=note if self._local else "")

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


def _use(moments: Sequence[Moment], last: Sequence[Moment], *, local: bool, note: str) -> Use:
    """`last` has the moment that tells what the engine has done in the end."""
    if not moments:
        return Use(gpu_note=note)
    first, final = moments[0], moments[-1]
    scrapes = [moment.scrape for moment in moments if moment.scrape is not None]
    ends = [moment.scrape for moment in last if moment.scrape is not None]
    gpu = [use for moment in moments if (use := moment.gpu_use(local=local)) is not None]
    memory = [moment.server_memory_bytes for moment in moments if moment.server_memory_bytes is not None]
    return Use(
        gpu_percent=_over(statistics.fmean, (use.percent for use in gpu)),
        gpu_memory_percent=_over(max, (use.memory_percent for use in gpu)),
        gpu_note=note or ("as the server's metrics say" if gpu else "the server's metrics name no GPU"),
        cpu_percent=final.cpu_percent(first) if local else _over(statistics.fmean, (of.cpu_percent for of in scrapes)),
        memory_percent=max(moment.memory_percent for moment in moments)
        if local
        else _over(max, (of.memory_percent for of in scrapes)),
        server_cpu_percent=final.server_cpu_percent(first),
        server_memory_mb=max(memory) / 2**20 if memory else None,
        waiting=statistics.fmean(of.waiting for of in scrapes) if scrapes else None,
        running=statistics.fmean(of.running for of in scrapes) if scrapes else None,
        engine=between(scrapes[0], ends[0]) if scrapes and ends else None,
    )


def _over(
    combine: Callable[[list[float]], float],
    values: Iterable[float | None],
) -> float | None:
    found = [value for value in values if value is not None]
    return combine(found) if found else None
