"""How much of the machine, and of what the server does, a measurement saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from loadtest.server.engine_metrics import Engine
from loadtest.server.moment import Reading

SEEN = [field.name for field in fields(Reading) if field.name != "at"]
HIGHEST = ("gpu_memory_percent", "memory_percent", "server_memory_mb")


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
    def of(cls, parts: Sequence[Reading | Use], gpu_note: str, engine: Engine | None) -> Use:
        """Of readings, or of the uses of several measurements: means, but for memory the highest."""
        seen = {name: [value for part in parts if (value := getattr(part, name)) is not None] for name in SEEN}
        numbers = {name: (max if name in HIGHEST else fmean)(values) for name, values in seen.items() if values}
        return cls(**numbers, gpu_note=gpu_note, engine=engine)

    @classmethod
    def mean(cls, uses: Sequence[Use]) -> Use:
        """Over measurements of the same strategy; what the engine did is added up."""
        engines = [use.engine for use in uses if use.engine is not None]
        return cls.of(uses, uses[0].gpu_note if uses else "", Engine.total(engines) if engines else None)
