from __future__ import annotations

import pytest

from loadtest.lab.figures import figures, jain, percentile
from loadtest.lab.slo import Slo
from tests.unit.loadtest.lab.measured import record

SLO = Slo(absolute_ms=1000.0)


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 50) == pytest.approx(50.5)
    assert percentile(values, 95) == pytest.approx(95.05)
    assert percentile(values, 99) == pytest.approx(99.01)
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None


def test_figures_count_answers_only_and_time_from_the_intended_start() -> None:
    records = [
        record(0.4),
        record(1.4, sent=0.9),  # sent late: its wait counts
        record(0.1, error="OVERLOADED"),
        record(0.6),
    ]
    its = figures(records, 2.0, SLO)
    assert (its.requests, its.succeeded, its.success_rate) == (4, 3, 0.75)
    assert its.throughput_per_s == 1.5
    assert its.goodput_per_s == 1.0
    assert its.slo_attainment == 0.5
    assert its.mean_ms == pytest.approx(800)
    assert its.p50_ms == pytest.approx(600)
    assert its.max_ms == pytest.approx(1400)
    assert its.first_progress_p50_ms == pytest.approx(300)
    assert (its.queue_ms, its.mean_batch) == (100.0, 2.0)


def test_figures_of_failures_only_have_no_times() -> None:
    its = figures([record(error="INTERNAL")], 1.0, SLO)
    assert (its.throughput_per_s, its.mean_ms, its.p95_ms, its.queue_ms) == (0.0, None, None, None)


def test_jain_is_one_for_equals_and_one_nth_for_one_who_bears_all() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
