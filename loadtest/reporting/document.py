"""The results as JSON, of what schema.json says."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import psutil

from loadtest.failures import BadInput
from loadtest.lab.campaign import Campaign
from loadtest.lab.measurement import Measurement
from loadtest.reporting.efficiency import NORMALISATION
from loadtest.reporting.formats import RESULTS, VERSIONS, fault
from loadtest.reporting.report import COMPARED, Report
from loadtest.reporting.version1 import upgraded
from tools.triton.api import JSON


def test_config(campaign: Campaign, *, reconfigured: bool, partial: str) -> JSON:
    """What was measured, how, and where."""
    target, load = campaign.target, campaign.load
    assert campaign.slo is not None
    return {
        "schema_version": VERSIONS[RESULTS],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "partial": partial or None,
        "url": target.http_url,
        "server": campaign.server_version,
        "model": target.model,
        "protocol": load.protocol,
        "mix": load.mix,
        "requests": load.requests,
        "requests_per_strategy": load.requests * campaign.repeats,
        "concurrent": load.concurrent,
        "rate": load.rate,
        "repeats": campaign.repeats,
        "seed": load.seed,
        "reconfigured": reconfigured,
        "slo": campaign.slo.values(),
        "strategies": [strategy.name for strategy in campaign.strategies],
        "strategy_settings": [asdict(strategy) for strategy in campaign.strategies],
        "machine": machine(campaign),
    }


def machine(campaign: Campaign) -> JSON:
    return {
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": campaign.gpus.names,
    }


def document(report: Report) -> JSON:
    """All of a report, with every request."""
    return {
        "test_config": {
            **report.config,
            "baseline": report.baseline.strategy.name,
            "normalisation": NORMALISATION,
        },
        "performance_results": [_performance(report, place) for place in range(len(report.results))],
        "system_metrics": [
            {**found, **asdict(reading)} for found, each in _measurements(report) for reading in each.readings
        ],
        "detailed_results": [
            {**found, **record.values()} for found, each in _measurements(report) for record in each.records
        ],
    }


def read_document(file: Path) -> JSON:
    """Of this version, into which one of version 1 is brought. Raises BadInput for anything else."""
    try:
        found: JSON = json.loads(file.read_text())
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}") from error
    version = found.get("test_config", {}).get("schema_version") if isinstance(found, dict) else None
    if version not in (1, VERSIONS[RESULTS]):
        allowed = f"1 or {VERSIONS[RESULTS]}"
        raise BadInput(f"{file}: test_config.schema_version is {version}; must be {allowed}: a JSON of this lab's")
    try:
        found = upgraded(found) if version == 1 else found
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: is no whole document of version 1: {type(error).__name__}: {error}") from error
    if problem := fault(found, RESULTS):
        raise BadInput(f"{file}: {problem}")
    return found


def _performance(report: Report, place: int) -> JSON:
    of, efficiency = report.results[place], report.efficiencies[place]
    return {
        "strategy": of.strategy.name,
        "best": of is report.best,
        "figures": asdict(of.pooled),
        "intervals": {figure: of.interval(figure) for figure in COMPARED},
        "efficiency": {"score": efficiency.score, **asdict(efficiency)},
        "change_against_baseline": {
            figure: asdict(change) if change else None for figure, change in report.changes(of).items()
        },
        "classes": [asdict(its) for its in of.classes],
        "fairness": of.fairness,
        "errors": [{"code": code, "text": text, "count": count} for (code, text), count in of.errors.most_common()],
        "advice": [asdict(one) for one in report.advice[place]],
        "use": {
            "utilisation_percent": of.use.utilisation_percent,
            "utilisation_of": of.use.utilisation_of,
            **asdict(of.use),
        },
        "runs": [
            {"repeat": each.repeat, "problem": each.problem or None, "figures": asdict(figures)}
            for each, figures in zip(of.measurements, of.each, strict=True)
        ],
    }


def _measurements(report: Report) -> Iterator[tuple[JSON, Measurement]]:
    """Each with what its entries are found by."""
    for of in report.results:
        for each in of.measurements:
            yield {"strategy": of.strategy.name, "repeat": each.repeat}, each
