"""The figures of one run, of one strategy over its repeats, and of a strategy against the baseline."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.lab.intervals import Change, half_width, paired_change
from loadtest.lab.slo import Slo
from loadtest.server.moment import Reading
from loadtest.server.monitor import Use
from loadtest.server.strategies import BASELINE, Strategy
from loadtest.traffic.record import Record
from loadtest.traffic.samples import error_of, first_progress_ms


@dataclass(frozen=True, slots=True)
class Run:
    """One strategy under load, once."""

    repeat: int
    """The round that it belongs to, from 1."""
    samples: Sequence[Record]
    use: Use
    problem: str = ""
    """Why it ended before its time, if it did."""
    readings: Sequence[Reading] = ()
    """Of the machine and the server, over its time."""

    @property
    def seconds(self) -> float:
        """From the first request's intended start to the last answer."""
        if not self.samples:
            return 0.0
        return max(sample.ended for sample in self.samples) - min(sample.intended for sample in self.samples)


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


@dataclass(frozen=True, slots=True)
class Result:
    """One strategy over all its repeats."""

    strategy: Strategy
    runs: Sequence[Run]
    pooled: Figures
    """Of all requests of all runs together."""
    each: Sequence[Figures]
    """Of each run."""
    classes: Sequence[ClassFigures]
    fairness: float | None
    """Jain's index of the classes' slowdowns: 1 if all are slowed down alike, 1/n if one of n bears everything."""
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each (code, text) was answered."""

    def interval(self, figure: str) -> float | None:
        """Half the width of the 95 % interval of a figure's mean over the repeats."""
        return half_width(self.values(figure))

    def values(self, figure: str) -> list[float]:
        """The figure of each run that has one."""
        found = (getattr(figures, figure) for figures in self.each)
        return [value for value in found if value is not None]

    @property
    def use(self) -> Use:
        return Use.mean([run.use for run in self.runs])


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks, as numpy's default; None of nothing."""
    return float(np.percentile(values, percent)) if values else None


def figures(samples: Sequence[Record], seconds: float, slo: Slo) -> Figures:
    """`seconds` is the time that these requests took together."""
    good = [sample for sample in samples if sample.ok]
    met = sum(slo.is_met(sample) for sample in samples)
    latencies = [sample.latency_ms for sample in good]
    first = [ms for ms in map(first_progress_ms, good) if ms is not None]

    def mean(value: Callable[[Record], float | None]) -> float | None:
        found = [number for number in map(value, good) if number is not None]
        return statistics.fmean(found) if found else None

    return Figures(
        requests=len(samples),
        succeeded=len(good),
        success_rate=_share(len(good), len(samples)),
        seconds=seconds,
        throughput_per_s=_share(len(good), seconds),
        goodput_per_s=_share(met, seconds),
        slo_attainment=_share(met, len(samples)),
        mean_ms=statistics.fmean(latencies) if latencies else None,
        p50_ms=percentile(latencies, 50),
        p95_ms=percentile(latencies, 95),
        p99_ms=percentile(latencies, 99),
        max_ms=max(latencies, default=None),
        first_progress_p50_ms=percentile(first, 50),
        first_progress_p95_ms=percentile(first, 95),
        queue_ms=mean(lambda sample: sample.queue_ms),
        encode_ms=mean(lambda sample: sample.encode_ms),
        denoise_ms=mean(lambda sample: sample.denoise_ms),
        decode_ms=mean(lambda sample: sample.decode_ms),
        mean_batch=mean(lambda sample: sample.mean_batch),
    )


def result(strategy: Strategy, runs: Sequence[Run], slo: Slo) -> Result:
    samples = [sample for run in runs for sample in run.samples]
    classes = _classes(samples, slo)
    slowdowns = [of.slowdown for of in classes if of.slowdown is not None]
    return Result(
        strategy=strategy,
        runs=runs,
        pooled=figures(samples, sum(run.seconds for run in runs), slo),
        each=[figures(run.samples, run.seconds, slo) for run in runs],
        classes=classes,
        fairness=jain(slowdowns) if slowdowns else None,
        errors=Counter(error_of(sample) for sample in samples if not sample.ok),
    )


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index: (Σx)² / (n · Σx²)."""
    return float(sum(values) ** 2 / (len(values) * sum(value**2 for value in values)))


def baseline_of(results: Sequence[Result]) -> Result:
    """What the others are compared with: the strategy `baseline`, or else the first."""
    return next((of for of in results if of.strategy.name == BASELINE), results[0])


def change(of: Result, base: Result, figure: str) -> Change | None:
    """The figure of one strategy against that of another, round by round."""
    rounds = {run.repeat: getattr(its, figure) for run, its in zip(base.runs, base.each, strict=True)}
    pairs = [
        (getattr(its, figure), rounds[run.repeat])
        for run, its in zip(of.runs, of.each, strict=True)
        if run.repeat in rounds
    ]
    whole = [(value, base_value) for value, base_value in pairs if value is not None and base_value is not None]
    return paired_change([value for value, _ in whole], [base_value for _, base_value in whole])


def _classes(samples: Sequence[Record], slo: Slo) -> list[ClassFigures]:
    found = []
    for name, priority in sorted({(sample.kind, sample.priority) for sample in samples}):
        its = [sample for sample in samples if (sample.kind, sample.priority) == (name, priority)]
        latencies = [sample.latency_ms for sample in its if sample.ok]
        shares = [sample.latency_ms / slo.limit_ms(sample) for sample in its if sample.ok]
        found.append(
            ClassFigures(
                name=name,
                priority=priority,
                requests=len(its),
                success_rate=_share(len(latencies), len(its)),
                slo_attainment=_share(sum(slo.is_met(sample) for sample in its), len(its)),
                p50_ms=percentile(latencies, 50),
                p95_ms=percentile(latencies, 95),
                slowdown=statistics.fmean(shares) if shares else None,
            )
        )
    return found


def _share(part: float, of: float) -> float:
    return part / of if of else 0.0
