"""The knees of a sweep: as a table, as JSON of what sweep.schema.json says, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from loadtest.lab.knee import SweepPoint, Swept
from loadtest.reporting.charts import COLOURS
from loadtest.reporting.formats import SWEEP, VERSIONS
from loadtest.reporting.table import number, table
from tools.triton.api import JSON


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


def _point(point: SweepPoint) -> JSON:
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
