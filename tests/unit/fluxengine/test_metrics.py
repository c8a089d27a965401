from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from fluxengine import metrics
from fluxengine.metrics import BATCH, IMAGES, LIMITS, METRICS, REQUESTS, WAITING, Metric, Metrics


def test_a_drain_brings_what_was_recorded_since_the_last() -> None:
    recorded = Metrics()
    recorded.count(IMAGES)
    recorded.count(IMAGES, 2)
    recorded.count(REQUESTS, label="ok")
    recorded.count(REQUESTS, label="cancelled")
    recorded.set(WAITING, 5)
    recorded.set(WAITING, 3)
    recorded.set(LIMITS, 512, label="width")
    recorded.observe(BATCH, 4)
    recorded.observe(BATCH, 8)

    drained = recorded.drain()
    assert drained.counters == {(IMAGES, ""): 3, (REQUESTS, "ok"): 1, (REQUESTS, "cancelled"): 1}
    assert drained.gauges == {(WAITING, ""): 3, (LIMITS, "width"): 512}
    assert drained.observations == {(BATCH, ""): [4, 8]}

    recorded.count(IMAGES)
    again = recorded.drain()
    assert (again.counters, again.gauges, again.observations) == ({(IMAGES, ""): 1}, {}, {})


def test_nothing_is_lost_or_counted_twice_between_threads() -> None:
    recorded = Metrics()
    drained: list[float] = []
    done = threading.Event()

    def record() -> None:
        for _ in range(5000):
            recorded.count(IMAGES)
            recorded.observe(BATCH, 1)

    def drain() -> None:
        while not done.is_set():
            take()

    def take() -> None:
        part = recorded.drain()
        drained.append(part.counters.get((IMAGES, ""), 0))
        drained.append(sum(part.observations.get((BATCH, ""), [])))

    drainer = threading.Thread(target=drain)
    recorders = [threading.Thread(target=record) for _ in range(4)]
    for thread in (drainer, *recorders):
        thread.start()
    for thread in recorders:
        thread.join()
    done.set()
    drainer.join()
    take()
    assert sum(drained) == 2 * 4 * 5000


def test_every_metric_of_the_module_is_listed_once() -> None:
    defined = [metric for metric in vars(metrics).values() if isinstance(metric, Metric)]
    assert list(METRICS) == defined
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_as_prometheus_wants_them(metric: Metric) -> None:
    assert metric.name.startswith("flux_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.description


def test_metrics_are_values() -> None:
    assert replace(IMAGES) == IMAGES
    assert hash(replace(IMAGES)) == hash(IMAGES)
