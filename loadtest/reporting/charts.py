"""The report's pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from loadtest.reporting.report import Report

DPI = 110
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
RADAR = ("throughput", "P95", "success", "within SLO", "utilisation")


def comparison(report: Report) -> Figure:
    """Throughput, response times, efficiency, and a radar chart, one field each."""
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    figure.suptitle(_title(report), fontsize=13)
    names = [of.strategy.name for of in report.results]
    _throughput(figure.add_subplot(2, 2, 1), report, names)
    _response(figure.add_subplot(2, 2, 2), report, names)
    _efficiency(figure.add_subplot(2, 2, 3), report, names)
    _radar(figure.add_subplot(2, 2, 4, projection="polar"), report)
    return figure


def distribution(report: Report) -> Figure:
    """For each response time, the share of requests that took no longer."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for colour, of in zip(_colours(report), report.results, strict=True):
        latencies = sorted(record.latency_ms for each in of.measurements for record in each.records if record.ok)
        shares = [100 * (place + 1) / len(latencies) for place in range(len(latencies))]
        axes.step(latencies, shares, where="post", label=of.strategy.name, color=colour)
    axes.set(title=f"Response times, {_title(report)}", xlabel="ms from the intended start", ylabel="% of requests")
    axes.set_ylim(0, 101)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _title(report: Report) -> str:
    config = report.config
    load = f"{config['rate']:g} requests/s" if config["rate"] else f"{config['concurrent']} at once"
    partial = "PARTIAL: " if report.partial else ""
    times = f"{config['repeats']} × {config['requests']} requests"
    return f"{partial}{config['model']}, mix {config['mix']}, {load}, {times}, {config['protocol']}"


def _colours(report: Report) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(report.results))]


def _throughput(axes: Any, report: Report, names: Sequence[str]) -> None:
    values = [of.pooled.throughput_per_s for of in report.results]
    halves = [of.interval("throughput_per_s") for of in report.results]
    bars = axes.bar(names, values, yerr=[half or 0.0 for half in halves], capsize=5, color=_colours(report))
    axes.bar_label(bars, fmt="%.2f", label_type="center", color="white")
    axes.set(title="Throughput" if None in halves else "Throughput (95 % intervals)", ylabel="requests/s")
    axes.set_ylim(0, 1.25 * max([*values, 1e-9]))  # an interval of few repeats would flatten all bars


def _response(axes: Any, report: Report, names: Sequence[str]) -> None:
    kinds = ("mean", "p50", "p95", "p99")
    width = 0.8 / len(kinds)
    for place, kind in enumerate(kinds):
        values = [getattr(of.pooled, f"{kind}_ms") or 0.0 for of in report.results]
        at = [number + (place - (len(kinds) - 1) / 2) * width for number in range(len(names))]
        axes.bar(at, values, width, label=kind.upper() if kind != "mean" else kind, color=COLOURS[place], alpha=0.85)
    axes.set_xticks(range(len(names)), names)
    axes.set(title="Response times", ylabel="ms")
    axes.legend()


def _efficiency(axes: Any, report: Report, names: Sequence[str]) -> None:
    bars = axes.bar(names, [efficiency.score for efficiency in report.efficiencies], color=_colours(report))
    axes.bar_label(bars, fmt="%.2f")
    axes.set(title="Efficiency score", ylim=(0, 1.08))


def _radar(axes: Any, report: Report) -> None:
    """All spokes run from 0 in the middle to 1, where more is better."""
    angles = [2 * math.pi * place / len(RADAR) for place in range(len(RADAR))]
    shortest = min((of.pooled.p95_ms for of in report.results if of.pooled.p95_ms), default=0.0)
    for colour, of, efficiency in zip(_colours(report), report.results, report.efficiencies, strict=True):
        tail = shortest / of.pooled.p95_ms if of.pooled.p95_ms else 0.0
        share = of.pooled.success_rate, of.pooled.slo_attainment
        values = [efficiency.throughput, tail, *share, efficiency.utilisation]
        axes.plot([*angles, angles[0]], [*values, values[0]], color=colour, label=of.strategy.name)
        axes.fill(angles, values, color=colour, alpha=0.1)
    axes.set_theta_offset(math.pi / 2)
    axes.set_xticks(angles, RADAR)
    axes.tick_params(axis="x", pad=14)
    axes.set_yticks([0.25, 0.5, 0.75], ["", "", ""])
    axes.set_ylim(0, 1)
    axes.set_title("Against the best of this report", pad=26)
    axes.legend(loc="lower right", bbox_to_anchor=(1.35, -0.05), fontsize=8)
