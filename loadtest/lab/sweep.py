"""Raises the rate of an open loop until the SLO breaks, for one strategy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from loadtest.failures import Broken
from loadtest.lab.campaign import Campaign
from loadtest.lab.knee import SweepPoint, Swept, find_knee, with_lead
from loadtest.lab.measurement import Measurement
from loadtest.server.strategies import Strategy
from loadtest.traffic.record import Record


@dataclass
class Sweep:
    """One strategy's; `points` grows as it goes, so that they are there whatever ends it."""

    campaign: Campaign
    strategy: Strategy
    target: float
    capacity_per_s: float = 0.0
    points: list[SweepPoint] = field(default_factory=list)
    _seeds: Iterator[int] = field(init=False)
    """Each measurement has its own: prompts that were sent before are in the server's cache."""

    def __post_init__(self) -> None:
        self._seeds = itertools.count(self.campaign.load.seed)

    def run(self) -> None:
        """Raises LabError."""
        self.campaign.prepare(self.strategy)
        closed = self._measure(None)
        good = sum(record.ok for record in closed.records)
        if not good:
            raise Broken(f"{self.strategy.name}: no request succeeded")
        self.capacity_per_s = good / closed.seconds
        find_knee(self.capacity_per_s, self._carries)

    def swept(self) -> Swept:
        return Swept(self.strategy, self.capacity_per_s, sorted(self.points, key=lambda point: point.rate))

    def _carries(self, rate: float) -> bool:
        """Measured once, and again up to --repeats times as long as chance may decide."""
        slo = self.campaign.slo
        assert slo is not None
        measured: list[Sequence[Record]] = []
        while True:
            measured.append(self._measure(rate).records)
            point = SweepPoint.of(rate, measured, self.target, slo)
            if point.is_clear or len(measured) == self.campaign.repeats:
                self.points.append(point)
                return point.carried

    def _measure(self, rate: float | None) -> Measurement:
        """Returns when everything that was sent has ended, so that nothing of one rate is in the way of the next."""
        load = self.campaign.load
        name = "closed loop" if rate is None else f"at {rate:.2f}"
        requests = load.requests if rate is None else with_lead(load.requests)
        seed = next(self._seeds)
        load = replace(load, rate=rate, requests=requests, seed=seed)
        found = self.campaign.measure(self.strategy, load, 1 + seed - self.campaign.load.seed, name)
        if found.problem:
            raise Broken(f"{self.strategy.name} {name}: {found.problem}")
        return found
