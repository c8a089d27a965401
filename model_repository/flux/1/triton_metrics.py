"""What the engine has measured, in Triton's own /metrics."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import triton_python_backend_utils as pb_utils

from fluxengine.metrics import Metric, Metrics, Series

log = logging.getLogger("fluxengine")


class MetricsPublisher:
    """Hands what the engine has measured to Triton's /metrics. Used by one thread."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._labels = labels
        self._families: dict[str, Any] = {}
        self._metrics: dict[Series, Any] = {}
        self._off = False

    def publish(self, metrics: Metrics) -> None:
        drained = metrics.drain()
        if self._off:
            return
        try:
            for series, amount in drained.counters.items():
                self._metric(series).increment(amount)
            for series, value in drained.gauges.items():
                self._metric(series).set(value)
            for series, values in drained.observations.items():
                for value in values:
                    self._metric(series).observe(value)
        except pb_utils.TritonModelException as error:
            self._off = True
            log.warning("no metrics: the server was started without them (%s)", error)

    def _metric(self, series: Series) -> Any:
        if series not in self._metrics:
            metric, value = series
            labels = self._labels | ({metric.label: value} if metric.label else {})
            options = {"buckets": list(metric.buckets)} if metric.kind == "histogram" else {}
            self._metrics[series] = _immortal(self._family(metric).Metric(labels=labels, **options))
        return self._metrics[series]

    def _family(self, metric: Metric) -> Any:
        if metric.name not in self._families:
            kind = getattr(pb_utils.MetricFamily, metric.kind.upper())
            self._families[metric.name] = _immortal(
                pb_utils.MetricFamily(name=metric.name, description=metric.description, kind=kind)
            )
        return self._families[metric.name]


def _immortal(metric: Any) -> Any:
    """The metric, never to be collected: on a reload the new instance counts on in the same series, and Triton frees
    them under it, and dies, when the old instance's objects go."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(metric))
    return metric
