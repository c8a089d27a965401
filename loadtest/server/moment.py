"""What is seen of the machine and the server at one moment, and what two moments tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from loadtest.server.engine_metrics import Scrape
from loadtest.server.gpus import GpuUse


@dataclass(frozen=True, slots=True)
class Moment:
    """One look. CPU times are cumulative."""

    at: float
    """Seconds since the epoch."""
    busy_s: float
    all_s: float
    memory_percent: float
    server_cpu_s: Mapping[int, float]
    """By process: one that ends meanwhile, as of a model that is replaced, takes its time with it."""
    server_memory_bytes: int | None
    gpu: GpuUse | None
    scrape: Scrape | None

    def cpu_percent(self, since: Moment) -> float | None:
        """Of this machine."""
        seconds = self.all_s - since.all_s
        return 100 * (self.busy_s - since.busy_s) / seconds if seconds > 0 else None

    def server_cpu_percent(self, since: Moment) -> float | None:
        """What the server's processes took of all cores."""
        seconds = self.all_s - since.all_s
        lasting = since.server_cpu_s.keys() & self.server_cpu_s.keys()
        if seconds <= 0 or not lasting:
            return None
        return 100 * sum(self.server_cpu_s[pid] - since.server_cpu_s[pid] for pid in lasting) / seconds

    def gpu_use(self, *, local: bool) -> GpuUse | None:
        """As this machine sees it, or of a server elsewhere as its metrics tell it."""
        if self.gpu is not None or local:
            return self.gpu
        of = self.scrape
        return GpuUse(of.gpu_percent, of.gpu_memory_percent) if of and of.gpu_percent is not None else None


@dataclass(frozen=True, slots=True)
class Reading:
    """One of many over time, with the names of Use. None: it could not be seen from here."""

    at: float
    """Seconds since the epoch. What is of a CPU is since the reading before."""
    gpu_percent: float | None
    gpu_memory_percent: float | None
    cpu_percent: float | None
    memory_percent: float | None
    server_cpu_percent: float | None
    server_memory_mb: float | None
    waiting: float | None
    running: float | None


def readings(moments: Sequence[Moment], *, local: bool) -> Iterator[Reading]:
    """`local`: the server runs on this machine, so that this machine's use is the server's. One fewer than moments."""
    for before, moment in pairwise(moments):
        gpu, told = moment.gpu_use(local=local), moment.scrape
        memory = moment.server_memory_bytes
        yield Reading(
            at=moment.at,
            gpu_percent=gpu.percent if gpu else None,
            gpu_memory_percent=gpu.memory_percent if gpu else None,
            cpu_percent=moment.cpu_percent(before) if local else (told.cpu_percent if told else None),
            memory_percent=moment.memory_percent if local else (told.memory_percent if told else None),
            server_cpu_percent=moment.server_cpu_percent(before),
            server_memory_mb=memory / 2**20 if memory is not None else None,
            waiting=told.waiting if told else None,
            running=told.running if told else None,
        )
