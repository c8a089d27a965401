"""Raises the rate of an open loop until the SLO breaks: the knee is the highest rate that a strategy carries."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from loadtest.campaign import Campaign
from loadtest.charts import COLOURS, png
from loadtest.document import test_config
from loadtest.failures import Broken, Interrupted, LabError
from loadtest.report import number, table
from loadtest.results import Figures, figures
from loadtest.saving import encode, prepare_folder, save
from loadtest.session import session
from loadtest.strategies import Strategy
from tools.triton.api import JSON

CLIMB = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
"""Rates that are tried upwards, as shares of what a closed loop reaches."""
FALL = (0.2, 0.1, 0.05)
"""Where even the lowest of those is too much."""
NARROWINGS = 3


@dataclass(frozen=True, slots=True)
class Point:
    rate: float
    """Asked for, requests a second."""
    figures: Figures


@dataclass(frozen=True)
class Swept:
    """One strategy's points, by rate."""

    strategy: Strategy
    capacity_per_s: float
    """What a closed loop of --concurrent users reached."""
    points: Sequence[Point]
    target: float

    @property
    def knee(self) -> Point | None:
        """The highest rate at which the SLO held, and at all lower ones too. None: it held at none."""
        held = None
        for point in self.points:
            if point.figures.slo_attainment < self.target:
                break
            held = point
        return held

    @property
    def broke(self) -> bool:
        """Whether any rate was too much. If none was, the true knee is higher."""
        return any(point.figures.slo_attainment < self.target for point in self.points)


def find_knee(capacity: float, holds: Callable[[float], bool]) -> None:
    """Calls `holds` with the rates that lead to the knee: up until one does not hold, then halving the gap."""
    good, bad = 0.0, math.inf
    for share in CLIMB:
        if not holds(capacity * share):
            bad = capacity * share
            break
        good = capacity * share
    if good == 0.0:
        for share in FALL:
            if holds(capacity * share):
                good = capacity * share
                break
            bad = capacity * share
    if good > 0.0 and math.isfinite(bad):
        for _ in range(NARROWINGS):
            middle = (good + bad) / 2
            if holds(middle):
                good = middle
            else:
                bad = middle


def sweep(options: argparse.Namespace) -> None:
    """Measures all strategies, prints a table, and writes sweep.json and sweep.png. Raises LabError."""
    prepare_folder(options.output)
    campaign: Campaign | None = None
    failure: LabError | Interrupted | None = None
    points: dict[str, list[Point]] = {}
    capacities: dict[str, float] = {}
    try:
        with session(options, keep=True) as campaign:
            for strategy in campaign.plan.strategies:
                _sweep(campaign, strategy, options.target, points.setdefault(strategy.name, []), capacities)
    except (LabError, Interrupted) as error:
        failure = error
    if campaign is not None and capacities:
        swept = [
            Swept(
                strategy,
                capacities[strategy.name],
                sorted(points[strategy.name], key=lambda point: point.rate),
                options.target,
            )
            for strategy in campaign.plan.strategies
            if strategy.name in capacities
        ]
        if failure is not None:
            print(f"PARTIAL: {failure}\n")
        print("\n".join(text(swept)), flush=True)
        config = test_config(campaign, reconfigured=not options.no_reconfigure, partial=str(failure or ""))
        files = {"sweep.json": encode(document(swept, config)), "sweep.png": png(chart(swept))}
        try:
            for path in save(options.output, files):
                print(f"written: {path}", flush=True)
        except Broken as error:
            failure = failure or error
    if failure is not None:
        raise failure


def text(swept: Sequence[Swept]) -> Iterator[str]:
    rows = [["strategy", "knee, requests/s", "within SLO", "P50 ms", "P95 ms", "P99 ms", "closed loop, requests/s"]]
    for of in swept:
        knee = of.knee
        if knee is None:
            rows.append([of.strategy.name, "none", "–", "–", "–", "–", f"{of.capacity_per_s:.2f}"])
            continue
        its = knee.figures
        rate = f"{knee.rate:.2f}" if of.broke else f"≥ {knee.rate:.2f}"
        times = [number(value) for value in (its.p50_ms, its.p95_ms, its.p99_ms)]
        rows.append([of.strategy.name, rate, f"{its.slo_attainment:.1%}", *times, f"{of.capacity_per_s:.2f}"])
    yield from table(rows)
    yield f"\nKnee: the highest rate at which at least {swept[0].target:.0%} of the requests met their SLO."


def document(swept: Sequence[Swept], config: JSON) -> JSON:
    return {
        "test_config": {**config, "target": swept[0].target},
        "sweeps": {
            of.strategy.name: {
                "knee_per_s": of.knee.rate if of.knee else None,
                "knee_is_lower_bound": not of.broke,
                "capacity_per_s": of.capacity_per_s,
                "points": [{"rate": point.rate, **asdict(point.figures)} for point in of.points],
            }
            for of in swept
        },
    }


def chart(swept: Sequence[Swept]) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    share, tail = figure.subplots(1, 2)
    for place, of in enumerate(swept):
        style: dict[str, Any] = {"marker": "o", "color": COLOURS[place % len(COLOURS)], "label": of.strategy.name}
        rates = [point.rate for point in of.points]
        share.plot(rates, [100 * point.figures.slo_attainment for point in of.points], **style)
        tail.plot(rates, [point.figures.p95_ms or math.nan for point in of.points], **style)
    share.axhline(100 * swept[0].target, color="grey", linestyle=":")
    share.set(title="Within SLO", xlabel="requests/s", ylabel="% of requests", ylim=(0, 103))
    tail.set(title="P95", xlabel="requests/s", ylabel="ms", yscale="log")
    share.legend()
    return figure


def _sweep(
    campaign: Campaign, strategy: Strategy, target: float, points: list[Point], capacities: dict[str, float]
) -> None:
    campaign.prepare(strategy)
    slo = campaign.slo
    assert slo is not None

    def measure(rate: float | None) -> Figures:
        name = "closed" if rate is None else f"at {rate:.2f}"
        run = campaign.measure(strategy, replace(campaign.plan.load, rate=rate), len(points) + 1, name)
        if run.problem:
            raise Broken(f"{strategy.name} {name}: {run.problem}")
        return figures(run.samples, run.seconds, slo)

    def holds(rate: float) -> bool:
        its = measure(rate)
        points.append(Point(rate, its))
        return its.slo_attainment >= target

    capacity = measure(None).throughput_per_s
    if not capacity:
        raise Broken(f"{strategy.name}: no request succeeded")
    capacities[strategy.name] = capacity
    find_knee(capacity, holds)
