"""The report as one HTML file that needs nothing else, no network either."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtest.reporting.efficiency import NORMALISATION
from loadtest.reporting.report import Report
from loadtest.reporting.table import number

TEMPLATE = "report.html.jinja"


def html(report: Report, slo: str, charts: Mapping[str, bytes]) -> str:
    """`charts` are PNG files by their titles."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    errors = [["strategy", "requests", "code", "text"]]
    classes = [["strategy", "class", "priority", "requests", "success", "P50 ms", "P95 ms", "within SLO", "slowdown"]]
    for of in report.results:
        name = of.strategy.name
        errors += [[name, str(count), code, text] for (code, text), count in of.errors.most_common()]
        classes += [
            [
                *(name, its.name, str(its.priority), str(its.requests), f"{its.success_rate:.1%}"),
                *(number(its.p50_ms), number(its.p95_ms), f"{its.slo_attainment:.1%}", number(its.slowdown, 2)),
            ]
            for its in of.classes
        ]
    return environment.get_template(TEMPLATE).render(
        config=report.config,
        partial=report.partial,
        verdict=report.verdict(),
        slo=slo,
        rows=list(report.rows()),
        stages=list(report.stage_rows()),
        changes=list(report.change_rows()),
        classes=classes,
        errors=errors if len(errors) > 1 else [],
        best=report.best.strategy.name,
        baseline=report.baseline.strategy.name,
        advice={of.strategy.name: advice for of, advice in zip(report.results, report.advice, strict=True)},
        charts={title: base64.b64encode(chart).decode() for title, chart in charts.items()},
        normalisation=NORMALISATION,
    )
