"""`python -m loadtest sweep`: raises the rate of an open loop until the SLO breaks, for each strategy."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from matplotlib.figure import Figure

from loadtest.failures import Broken, Interrupted, LabError
from loadtest.lab.campaign import Campaign
from loadtest.lab.knee import Point, Swept, find_knee, with_lead
from loadtest.lab.result import Run
from loadtest.lab.setup import session
from loadtest.reporting.charts import COLOURS, png
from loadtest.reporting.document import test_config
from loadtest.reporting.files import encode, prepare_folder, save
from loadtest.reporting.formats import SWEEP, VERSIONS, fault
from loadtest.reporting.report import number, table
from loadtest.server.strategies import Strategy
from loadtest.traffic.record import Record
from tools.triton.api import JSON


@dataclass
class Sweep:
    """One strategy's; `points` grows as it goes, so that they are there whatever ends it."""

    campaign: Campaign
    strategy: Strategy
    target: float
    capacity_per_s: float = 0.0
    points: list[Point] = field(default_factory=list)
    _seeds: Iterator[int] = field(init=False)
    """Each run has its own: prompts that were sent before are in the server's cache."""

    def __post_init__(self) -> None:
        self._seeds = itertools.count(self.campaign.plan.load.seed)

    def run(self) -> None:
        """Raises LabError."""
        self.campaign.prepare(self.strategy)
        closed = self._measure(None)
        good = sum(sample.ok for sample in closed.samples)
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
        runs: list[Sequence[Record]] = []
        while True:
            runs.append(self._measure(rate).samples)
            point = Point.of(rate, runs, self.target, slo)
            if point.is_clear or len(runs) == self.campaign.plan.repeats:
                self.points.append(point)
                return point.carried

    def _measure(self, rate: float | None) -> Run:
        """Returns when everything that was sent has ended, so that nothing of one rate is in the way of the next."""
        load = self.campaign.plan.load
        name = "closed loop" if rate is None else f"at {rate:.2f}"
        requests = load.requests if rate is None else with_lead(load.requests)
        seed = next(self._seeds)
        load = replace(load, rate=rate, requests=requests, seed=seed)
        run = self.campaign.measure(self.strategy, load, 1 + seed - self.campaign.plan.load.seed, name)
        if run.problem:
            raise Broken(f"{self.strategy.name} {name}: {run.problem}")
        return run


def sweep(options: argparse.Namespace) -> None:
    """Measures all strategies, prints a table, and writes sweep.json and sweep.png. Raises LabError."""
    prepare_folder(options.output)
    campaign: Campaign | None = None
    failure: LabError | Interrupted | None = None
    sweeps: list[Sweep] = []
    try:
        with session(options, keep=True) as campaign:
            for strategy in campaign.plan.strategies:
                sweeps.append(Sweep(campaign, strategy, options.target))
                sweeps[-1].run()
    except (LabError, Interrupted) as error:
        failure = error
    swept = [of.swept() for of in sweeps if of.capacity_per_s]
    if campaign is not None and swept:
        if failure is not None:
            print(f"PARTIAL: {failure}\n")
        print("\n".join(text(swept, options.target)), flush=True)
        config = test_config(campaign, reconfigured=not options.no_reconfigure, partial=str(failure or ""))
        written = document(swept, config, options.target)
        try:
            for path in save(
                options.output, {"sweep.json": encode(written), "sweep.png": png(chart(swept, options.target))}
            ):
                print(f"written: {path}", flush=True)
            if problem := fault(written, SWEEP):
                raise Broken(f"sweep.json does not keep to {SWEEP}, which is the lab's own fault: {problem}")
        except Broken as error:
            failure = failure or error
    if failure is not None:
        raise failure


def text(swept: Sequence[Swept], target: float) -> Iterator[str]:
    head = ["strategy", "knee, requests/s", "breaks at", "within SLO (95 % interval)", "P50 ms", "P95 ms", "P99 ms"]
    rows = [[*head, "closed loop, requests/s"]]
    for of in swept:
        knee, breaks = of.knee, of.breaks
        breaks_at = f"{breaks.rate:.2f}" if breaks else "–"
        if knee is None:
            rows.append([of.strategy.name, "none", breaks_at, "–", "–", "–", "–", f"{of.capacity_per_s:.2f}"])
            continue
        its, (low, high) = knee.figures, knee.interval
        rate = f"{knee.rate:.2f}" if breaks else f"≥ {knee.rate:.2f}"
        within = f"{its.slo_attainment:.1%} ({low:.1%} to {high:.1%})"
        times = [number(value) for value in (its.p50_ms, its.p95_ms, its.p99_ms)]
        rows.append([of.strategy.name, rate, breaks_at, within, *times, f"{of.capacity_per_s:.2f}"])
    yield from table(rows)
    yield f"\nKnee: the highest rate at which at least {target:.0%} of requests met their SLO, and the server kept up."
    yield from filter(None, map(_remark, swept))


def document(swept: Sequence[Swept], config: JSON, target: float) -> JSON:
    """As sweep.schema.json says."""
    config = {name: value for name, value in config.items() if name not in ("rate", "requests_per_strategy")}
    return {
        "test_config": {**config, "schema_version": VERSIONS[SWEEP], "target": target},
        "sweeps": {
            of.strategy.name: {
                "knee_per_s": of.knee.rate if of.knee else None,
                "breaks_at_per_s": of.breaks.rate if of.breaks else None,
                "capacity_per_s": of.capacity_per_s,
                "points": [_point(point) for point in of.points],
            }
            for of in swept
        },
    }


def chart(swept: Sequence[Swept], target: float) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    share, tail = figure.subplots(1, 2)
    for place, of in enumerate(swept):
        style: dict[str, Any] = {"marker": "o", "color": COLOURS[place % len(COLOURS)], "label": of.strategy.name}
        rates = [point.rate for point in of.points]
        share.plot(rates, [100 * point.figures.slo_attainment for point in of.points], **style)
        tail.plot(rates, [point.figures.p95_ms or math.nan for point in of.points], **style)
    share.axhline(100 * target, color="grey", linestyle=":")
    share.set(title="Within SLO", xlabel="requests/s", ylabel="% of requests", ylim=(0, 103))
    tail.set(title="P95", xlabel="requests/s", ylabel="ms", yscale="log")
    share.legend()
    return figure


def _remark(of: Swept) -> str:
    """What a knee lacks, and what to do about it."""
    name, knee, breaks = of.strategy.name, of.knee, of.breaks
    if knee is None and breaks is not None:
        why = "even then requests miss their SLO" if breaks.keeps_up else "even then the queue grows"
        return f"{name}: no rate was carried, down to {breaks.rate:.2f}/s: {why}. --slo-scale or --slo-ms allows more."
    if knee is not None and breaks is None:
        return (
            f"{name}: no rate broke the SLO, up to {knee.rate:.2f}/s. More --concurrent users begin the search higher."
        )
    if knee is not None and not (knee.is_clear and breaks is not None and breaks.is_clear):
        return f"{name}: chance has a part in the knee; more --requests or --repeats narrow it."
    return ""


def _point(point: Point) -> JSON:
    low, high = point.interval
    return {
        "rate": point.rate,
        "runs": point.runs,
        "carried": point.carried,
        "keeps_up": point.keeps_up,
        "attainment_low": low,
        "attainment_high": high,
        "figures": asdict(point.figures),
    }
