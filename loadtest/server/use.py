"""How much of the machine, and of what the server does, a measurement saw."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loadtest.server.engine_metrics import Engine, between
from loadtest.server.moment import Moment


@dataclass(frozen=True, slots=True)
class Use:
    """Of one measurement, or the mean of several. None: it could not be seen from here."""

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

    @classmethod
    def of(cls, moments: Sequence[Moment], last: Sequence[Moment], *, local: bool, note: str) -> Use:
        """`last` has the moment that tells what the engine has done in the end."""
        if not moments:
            return cls(gpu_note=note)
        first, final = moments[0], moments[-1]
        scrapes = [moment.scrape for moment in moments if moment.scrape is not None]
        ends = [moment.scrape for moment in last if moment.scrape is not None]
        gpu = [use for moment in moments if (use := moment.gpu_use(local=local)) is not None]
        memory = [moment.server_memory_bytes for moment in moments if moment.server_memory_bytes is not None]
        return cls(
            gpu_percent=_over(statistics.fmean, (use.percent for use in gpu)),
            gpu_memory_percent=_over(max, (use.memory_percent for use in gpu)),
            gpu_note=note or ("as the server's metrics say" if gpu else "the server's metrics name no GPU"),
            cpu_percent=final.cpu_percent(first)
            if local
            else _over(statistics.fmean, (of.cpu_percent for of in scrapes)),
            memory_percent=max(moment.memory_percent for moment in moments)
            if local
            else _over(max, (of.memory_percent for of in scrapes)),
            server_cpu_percent=final.server_cpu_percent(first),
            server_memory_mb=max(memory) / 2**20 if memory else None,
            waiting=_over(statistics.fmean, (of.waiting for of in scrapes)),
            running=_over(statistics.fmean, (of.running for of in scrapes)),
            engine=between(scrapes[0], ends[0]) if scrapes and ends else None,
        )


def _over(
    combine: Callable[[list[float]], float],
    values: Iterable[float | None],
) -> float | None:
    found = [value for value in values if value is not None]
    return combine(found) if found else None
