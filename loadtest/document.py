"""The results as JSON, of what schema.json says."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from loadtest.campaign import Campaign
from loadtest.efficiency import NORMALISATION
from loadtest.failures import BadInput
from loadtest.report import COMPARED, Report
from loadtest.results import Result
from loadtest.schemas import RESULTS, VERSION, fault
from tools.triton.api import JSON


def test_config(campaign: Campaign, *, reconfigured: bool, partial: str) -> JSON:
    """What was measured, how, and where."""
    plan, target, load = campaign.plan, campaign.target, campaign.plan.load
    assert campaign.slo is not None
    return {
        "schema_version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "partial": partial or None,
        "url": target.http_url,
        "server": campaign.server_version,
        "model": target.model,
        "protocol": load.protocol,
        "mix": load.mix,
        "requests": load.requests,
        "concurrent": load.concurrent,
        "rate": load.rate,
        "repeats": plan.repeats,
        "seed": load.seed,
        "reconfigured": reconfigured,
        "slo": campaign.slo.values(),
        "strategies": [strategy.values() for strategy in plan.strategies],
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
        "performance_results": {of.strategy.name: _performance(report, n) for n, of in enumerate(report.results)},
        "system_metrics": {of.strategy.name: _system(of) for of in report.results},
        "detailed_results": {of.strategy.name: _details(of) for of in report.results},
    }


def read_document(file: Path) -> JSON:
    """Raises BadInput if it is not one of this version."""
    try:
        found: JSON = json.loads(file.read_text())
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}") from error
    version = found.get("test_config", {}).get("schema_version") if isinstance(found, dict) else None
    if version != VERSION:
        raise BadInput(f"{file}: test_config.schema_version is {version}; must be {VERSION}: a JSON of this lab's")
    if problem := fault(found, RESULTS):
        raise BadInput(f"{file}: {problem}")
    return found


def _performance(report: Report, place: int) -> JSON:
    of, efficiency = report.results[place], report.efficiencies[place]
    return {
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
    }


def _system(of: Result) -> Mapping[str, Any]:
    use = of.use
    return {
        "utilisation_percent": use.utilisation_percent,
        "utilisation_of": use.utilisation_of,
        **asdict(use),
    }


def _details(of: Result) -> list[JSON]:
    return [
        {
            "repeat": run.repeat,
            "problem": run.problem or None,
            "figures": asdict(figures),
            "requests": [json.loads(sample.line()) for sample in run.samples],
        }
        for run, figures in zip(of.runs, of.each, strict=True)
    ]
