"""The knee of a strategy: the highest rate of an open loop that it carries. How it is looked for, and when it is found.

A rate is carried if at least `target` of the requests meet their SLO and the server keeps up. The second matters where
the SLO is generous: a queue that grows for ever breaks any SLO in the end, but not within a short measurement.
"""

from __future__ import annotations

import itertools
import math
import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.lab.figures import Figures, figures
from loadtest.lab.slo import Slo
from loadtest.server.strategies import Strategy
from loadtest.traffic.record import Record

CLIMB = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.5)
"""Rates that are tried upwards, as shares of what a closed loop reaches."""
FALL = (0.2, 0.1, 0.05)
"""Where even the lowest of those is too much."""
NARROWINGS = 3
LEAD = 0.2
"""So many requests more, as a share of those that count, come before them and fill the queue: it is empty at first."""
SLOWER, GROWING = 0.95, 1.2
Z = 1.960
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One rate, over all its measurements."""

    rate: float
    """Asked for, requests a second."""
    runs: int
    target: float
    figures: Figures
    keeps_up: bool

    @classmethod
    def of(cls, rate: float, runs: Sequence[Sequence[Record]], target: float, slo: Slo) -> SweepPoint:
        """`runs` have with_lead requests each."""
        counted = [_after_lead(records) for records in runs]
        pooled = [record for records in counted for record in records]
        up = sum(keeps_up(records) for records in counted)
        return cls(rate, len(runs), target, figures(pooled, sum(map(_seconds, counted)), slo), 2 * up > len(runs))

    @property
    def carried(self) -> bool:
        return self.keeps_up and self.figures.slo_attainment >= self.target

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share within SLO, as if requests did not depend on each other."""
        its = self.figures
        return wilson(round(its.slo_attainment * its.requests), its.requests)

    @property
    def is_clear(self) -> bool:
        """Whether more requests would hardly change the verdict."""
        low, high = self.interval
        return high < self.target or (low >= self.target and self.keeps_up)


@dataclass(frozen=True)
class Swept:
    """One strategy's points, by rate."""

    strategy: Strategy
    capacity_per_s: float
    """What a closed loop of --concurrent users reached."""
    points: Sequence[SweepPoint]

    @property
    def knee(self) -> SweepPoint | None:
        """The highest rate that was carried, as all lower ones were. None: none was."""
        carried = itertools.takewhile(lambda point: point.carried, self.points)
        return max(carried, key=operator.attrgetter("rate"), default=None)

    @property
    def breaks(self) -> SweepPoint | None:
        """The lowest rate that was not carried; the true knee lies between the two. None: no rate was too much."""
        return next((point for point in self.points if not point.carried), None)


def find_knee(capacity: float, carries: Callable[[float], bool]) -> None:
    """Calls `carries` with the rates that lead to the knee: up until one is too much, then halving the gap.

    From 0.4 to 1.2 times the capacity the gap that is left is a fortieth of the capacity.
    """
    good, bad = 0.0, math.inf
    for share in CLIMB:
        if not carries(capacity * share):
            bad = capacity * share
            break
        good = capacity * share
    if good == 0.0:
        for share in FALL:
            if carries(capacity * share):
                good = capacity * share
                break
            bad = capacity * share
    if good > 0.0 and math.isfinite(bad):
        for _ in range(NARROWINGS):
            middle = (good + bad) / 2
            if carries(middle):
                good = middle
            else:
                bad = middle


def with_lead(requests: int) -> int:
    """How many are sent so that so many count."""
    return requests + math.ceil(LEAD * requests)


def keeps_up(records: Sequence[Record]) -> bool:
    """False if a server answers more slowly than requests come: from the first intended start to the last answer took
    clearly longer than the arrivals alone, and the last third of the requests waited clearly longer than the second."""
    if len(records) < 3:
        return True
    third = len(records) // 3
    middle, last = (
        statistics.fmean(s.latency_ms for s in part) for part in (records[third : 2 * third], records[-third:])
    )
    arrivals_s = records[-1].intended - records[0].intended
    return arrivals_s >= SLOWER * _seconds(records) or last <= GROWING * middle


def wilson(met: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share that was `met` in so many cases (Wilson's score interval)."""
    if of == 0:
        return 0.0, 1.0
    share, z2 = met / of, Z * Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def _after_lead(records: Sequence[Record]) -> list[Record]:
    """Those that count, in the order of their intended starts."""
    ordered = sorted(records, key=lambda record: record.intended)
    return ordered[round(len(ordered) * LEAD / (1 + LEAD)) :]


def _seconds(records: Sequence[Record]) -> float:
    if not records:
        return 0.0
    return max(record.ended for record in records) - min(record.intended for record in records)
