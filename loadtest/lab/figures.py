"""The figures of some requests, whoever measured them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.lab.slo import Slo
from loadtest.traffic.record import Record


@dataclass(frozen=True, slots=True)
class Figures:
    """Of some requests. Rates count requests that succeeded; so do times, in ms from the intended start.

    None: nothing was measured that could say it.
    """

    requests: int
    succeeded: int
    success_rate: float
    seconds: float
    throughput_per_s: float
    goodput_per_s: float
    """Those within their SLO."""
    slo_attainment: float
    """The share of all requests that were within their SLO."""
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    first_progress_p50_ms: float | None
    first_progress_p95_ms: float | None
    queue_ms: float | None
    encode_ms: float | None
    denoise_ms: float | None
    decode_ms: float | None
    mean_batch: float | None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of the requests of one entry of the mix with one priority."""

    name: str
    priority: int
    requests: int
    success_rate: float
    slo_attainment: float
    p50_ms: float | None
    p95_ms: float | None
    slowdown: float | None
    """Mean of the latency as a share of the SLO's limit, which grows with what a request needs: fair is equal."""


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks, as numpy's default; None of nothing."""
    return float(np.percentile(values, percent)) if values else None


def figures(records: Sequence[Record], seconds: float, slo: Slo) -> Figures:
    """`seconds` is the time that these requests took together."""
    good = [record for record in records if record.ok]
    met = sum(slo.is_met(record) for record in records)
    latencies = [record.latency_ms for record in good]
    first = [ms for ms in (record.first_progress_ms for record in good) if ms is not None]

    def mean(name: str) -> float | None:
        found = [value for record in good if (value := getattr(record, name)) is not None]
        return statistics.fmean(found) if found else None

    return Figures(
        requests=len(records),
        succeeded=len(good),
        success_rate=_share(len(good), len(records)),
        seconds=seconds,
        throughput_per_s=_share(len(good), seconds),
        goodput_per_s=_share(met, seconds),
        slo_attainment=_share(met, len(records)),
        mean_ms=statistics.fmean(latencies) if latencies else None,
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        p99_ms=percentile(latencies, 99),
        max_ms=max(latencies, default=None),
        first_progress_p50_ms=percentile(first, 50),
        first_progress_p95_ms=percentile(first, 95),
        **{name: mean(name) for name in ("queue_ms", "encode_ms", "denoise_ms", "decode_ms", "mean_batch")},
    )


def class_figures(records: Sequence[Record], slo: Slo) -> list[ClassFigures]:
    found = []
    for name, priority in sorted({(record.kind, record.priority) for record in records}):
        its = [record for record in records if (record.kind, record.priority) == (name, priority)]
        latencies = [record.latency_ms for record in its if record.ok]
        shares = [record.latency_ms / slo.limit_ms(record) for record in its if record.ok]
        found.append(
            ClassFigures(
                name=name,
                priority=priority,
                requests=len(its),
                success_rate=_share(len(latencies), len(its)),
                slo_attainment=_share(sum(slo.is_met(record) for record in its), len(its)),
                p50_ms=percentile(latencies, 50),
                p95_ms=percentile(latencies, 95),
                slowdown=statistics.fmean(shares) if shares else None,
            )
        )
    return found


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: (Σx)² / (n · Σx²)."""
    return float(sum(values) ** 2 / (len(values) * sum(value**2 for value in values)))


def _share(part: float, of: float) -> float:
    return part / of if of else 0.0
