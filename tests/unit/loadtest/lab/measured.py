"""Made-up measurements whose figures can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtest.lab.measurement import Measurement
from loadtest.lab.result import Result, result
from loadtest.lab.slo import Slo
from loadtest.reporting.report import Report
from loadtest.server.engine_metrics import Engine
from loadtest.server.moment import Reading
from loadtest.server.strategies import STRATEGIES, Strategy
from loadtest.server.use import Use
from loadtest.traffic.record import Record

CONFIG: dict[str, Any] = {
    "schema_version": 2,
    "created": "2026-01-02T03:04:05+00:00",
    "partial": None,
    "url": "http://localhost:8000",
    "server": "2.51.0",
    "model": "flux",
    "protocol": "grpc-stream",
    "mix": "uniform",
    "requests": 4,
    "requests_per_strategy": 12,
    "concurrent": 4,
    "rate": None,
    "repeats": 3,
    "seed": 1,
    "reconfigured": True,
    "slo": {"kind": "absolute", "limit_ms": 1000.0},
    "strategies": list(STRATEGIES),
    "strategy_settings": [asdict(strategy) for strategy in STRATEGIES.values()],
    "machine": {"platform": "Linux", "cores": 2, "memory_gb": 24.0, "gpus": []},
}
SECOND = Slo(absolute_ms=1000.0)
SEEN = {
    "cpu_percent": 90.0,
    "memory_percent": 20.0,
    "server_cpu_percent": 80.0,
    "server_memory_mb": 500.0,
    "waiting": 1.0,
    "running": 2.0,
}
ENGINE = Engine(images=4, steps=32, mean_batch=2.0, cache_hits=0, cache_misses=4)
USE = Use(**SEEN, gpu_note="no GPU on this machine", engine=ENGINE)
READING = Reading(**SEEN, at=1.5, gpu_percent=None, gpu_memory_percent=None)


def record(latency_s: float = 1.0, *, at: float = 0.0, error: str = "", **changed: Any) -> Record:
    """A request that was to be sent at `at`, and failed if there is an error."""
    values: dict[str, Any] = {
        "name": "grpc-stream 128x128 8 steps",
        "protocol": "grpc-stream",
        "width": 128,
        "height": 128,
        "steps": 8,
        "priority": 0,
        "kind": "picture",
        "seed": 1,
        "intended": at,
        "sent": at,
        "first_progress": at + latency_s / 2,
        "ended": at + latency_s,
        "ok": not error,
        "error": {"code": error, "text": f"what: {error} <b>happened</b>"} if error else None,
        "queue_ms": 100.0,
        "encode_ms": 10.0,
        "denoise_ms": 500.0,
        "decode_ms": 30.0,
        "total_ms": 640.0,
        "mean_batch": 2.0,
        "bytes": 1000,
    }
    return Record(**{**values, **changed})


def measurement(latencies_s: Sequence[float], *, repeat: int = 1, use: Use = USE, problem: str = "") -> Measurement:
    return Measurement(repeat, [record(latency) for latency in latencies_s], use, problem, [READING])


def measured(
    measurements: Sequence[Measurement], strategy: Strategy = STRATEGIES["baseline"], slo: Slo = SECOND
) -> Result:
    return result(strategy, measurements, slo)


def report(*results: Result, partial: str = "") -> Report:
    return Report(results, {**CONFIG, "partial": partial or None}, concurrent=4, partial=partial)


def of(found: dict[str, Any], strategy: str) -> dict[str, Any]:
    """A strategy's entry of `performance_results`."""
    (entry,) = (entry for entry in found["performance_results"] if entry["strategy"] == strategy)
    return dict(entry)


def two_strategies(partial: str = "") -> Report:
    """Baseline with 1 s or so for each request, async with half of that."""
    base = [measurement([1.0, 1.1, 1.2, 1.3], repeat=n) for n in (1, 2, 3)]
    fast = [measurement([0.5, 0.55 + n / 100, 0.6, 0.65], repeat=n) for n in (1, 2, 3)]
    return report(measured(base), measured(fast, STRATEGIES["async"]), partial=partial)
