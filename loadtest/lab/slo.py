"""The time that a request may take: a multiple of what it takes alone on an idle server, or a fixed limit."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.traffic.record import Record

Size = tuple[int, int]
DEFAULT_SCALE = 3.0


@dataclass(frozen=True, slots=True)
class Alone:
    """What a request takes alone: for each picture size a line over the steps, fitted to measured requests."""

    lines: dict[Size, tuple[float, float]]
    """(ms without any step, ms for each step) by (width, height)."""

    @classmethod
    def fit(cls, records: Sequence[Record]) -> Alone:
        """From requests that ran one at a time. Needs one that succeeded."""
        by_size: defaultdict[Size, list[Record]] = defaultdict(list)
        for record in records:
            if record.ok:
                by_size[record.width, record.height].append(record)
        return cls({size: _line(found) for size, found in by_size.items()})

    def ms(self, record: Record) -> float:
        """For a size that was not among the measured: that of the nearest, scaled by the pixels."""
        pixels = record.width * record.height
        size = min(self.lines, key=lambda known: abs(known[0] * known[1] - pixels))
        fixed, per_step = self.lines[size]
        return (fixed + per_step * record.steps) * pixels / (size[0] * size[1])


@dataclass(frozen=True, slots=True)
class Slo:
    """Either `alone` and `scale`, or `absolute_ms`."""

    alone: Alone | None = None
    scale: float = DEFAULT_SCALE
    absolute_ms: float | None = None

    def limit_ms(self, record: Record) -> float:
        if self.absolute_ms is not None:
            return self.absolute_ms
        assert self.alone is not None
        return self.scale * self.alone.ms(record)

    def is_met(self, record: Record) -> bool:
        """A request that failed has missed it."""
        return record.ok and record.latency_ms <= self.limit_ms(record)

    def values(self) -> dict[str, Any]:
        """For JSON."""
        if self.alone is None:
            return {"kind": "absolute", "limit_ms": self.absolute_ms}
        alone = [
            {"width": width, "height": height, "fixed_ms": round(fixed, 3), "ms_per_step": round(per_step, 3)}
            for (width, height), (fixed, per_step) in sorted(self.alone.lines.items())
        ]
        return {"kind": "scale", "scale": self.scale, "alone": alone}

    def __str__(self) -> str:
        if self.absolute_ms is not None:
            return f"{self.absolute_ms:g} ms"
        return f"{self.scale:g} × the time of the same request alone"


def _line(records: Sequence[Record]) -> tuple[float, float]:
    """Least squares through the medians of each step count; all of the time goes to the steps where there is one."""
    by_steps: defaultdict[int, list[float]] = defaultdict(list)
    for record in records:
        by_steps[record.steps].append(record.latency_ms)
    medians = {steps: statistics.median(found) for steps, found in by_steps.items()}
    if len(medians) > 1:
        per_step, fixed = (float(c) for c in np.polyfit(list(medians), list(medians.values()), 1))
        if per_step > 0 and fixed >= 0:
            return fixed, per_step
    return 0.0, statistics.fmean(median / steps for steps, median in medians.items())
