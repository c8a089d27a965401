from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.lab.result import baseline_of, change, figures, jain, percentile
from loadtest.lab.slo import Alone, Slo
from loadtest.reporting.efficiency import efficiencies
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.measured import USE, measured, run, sample

SLO = Slo(absolute_ms=1000.0)


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 50) == pytest.approx(50.5)
    assert percentile(values, 95) == pytest.approx(95.05)
    assert percentile(values, 99) == pytest.approx(99.01)
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None


def test_figures_count_answers_only_and_time_from_the_intended_start() -> None:
    samples = [
        sample(0.4),
        sample(1.4, sent=0.9),  # sent late: its wait counts
        sample(0.1, error="OVERLOADED"),
        sample(0.6),
    ]
    its = figures(samples, 2.0, SLO)
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
    its = figures([sample(error="INTERNAL")], 1.0, SLO)
    assert (its.throughput_per_s, its.mean_ms, its.p95_ms, its.queue_ms) == (0.0, None, None, None)


def test_a_run_lasts_from_the_first_intended_start_to_the_last_answer() -> None:
    assert replace(run([]), samples=[sample(1.0, at=5.0, sent=7.0), sample(3.0, at=6.0)]).seconds == pytest.approx(4.0)
    assert run([]).seconds == 0.0


def test_pooled_figures_are_of_all_requests_and_each_of_one_run() -> None:
    its = measured([run([1.0, 1.0]), run([2.0, 2.0], repeat=2)])
    assert its.pooled.throughput_per_s == pytest.approx(4 / 3)
    assert [of.throughput_per_s for of in its.each] == [2.0, 1.0]
    assert its.pooled.p50_ms == pytest.approx(1500)
    assert its.interval("throughput_per_s") == pytest.approx(12.706 * 0.7071 / 1.4142, rel=1e-3)


def test_jain_is_one_for_equals_and_one_nth_for_one_who_bears_all() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_classes_are_told_apart_by_name_and_priority() -> None:
    samples = [sample(0.5, kind="person", priority=1), sample(2.0, kind="job", priority=4), sample(1.0, kind="job")]
    its = measured([replace(run([]), samples=samples)])
    assert [(of.name, of.priority) for of in its.classes] == [("job", 0), ("job", 4), ("person", 1)]
    assert [of.slowdown for of in its.classes] == pytest.approx([1.0, 2.0, 0.5])
    assert its.fairness == pytest.approx(3.5**2 / (3 * 5.25))


def test_changes_pair_the_rounds_of_an_interrupted_campaign() -> None:
    base = measured([run([1.0], repeat=1), run([2.0], repeat=2), run([4.0], repeat=3)])
    other = measured([run([0.5], repeat=1), run([1.0], repeat=2)], STRATEGIES["async"])
    found = change(other, base, "throughput_per_s")
    assert found is not None
    assert found.percent == pytest.approx(100)
    assert baseline_of([other, base]) is base
    assert baseline_of([other]) is other


def test_efficiency_is_the_documented_sum() -> None:
    slow = measured([run([1.0, 1.0])])
    fast = measured([run([0.5, 0.5])], STRATEGIES["async"])
    scores = efficiencies([slow, fast])
    assert [scores[1].throughput, scores[1].response, scores[1].utilisation] == pytest.approx([1.0, 1.0, 0.8])
    assert scores[1].score == pytest.approx(0.5 + 0.3 + 0.2 * 0.8)
    assert scores[0].score == pytest.approx(0.5 * 0.5 + 0.3 * 0.5 + 0.2 * 0.8)


def test_efficiency_of_a_strategy_that_answers_nothing() -> None:
    dead = measured([replace(run([]), samples=[sample(error="INTERNAL")])])
    assert efficiencies([dead])[0].score == pytest.approx(0.2 * 0.8)


def test_use_is_of_the_gpu_where_there_is_one_and_else_of_the_cpu() -> None:
    assert (USE.utilisation_percent, USE.utilisation_of) == (80.0, "server's CPU")
    assert replace(USE, server_cpu_percent=None).utilisation_percent == 90.0
    with_gpu = replace(USE, gpu_percent=33.0)
    assert (with_gpu.utilisation_percent, with_gpu.utilisation_of) == (33.0, "GPU")


def test_slo_is_a_multiple_of_the_fitted_time_alone() -> None:
    alone = Alone.fit([sample(0.010 + 0.020 * steps, steps=steps) for steps in (4, 4, 8, 12)])
    assert alone.lines[128, 128] == pytest.approx((10, 20))
    slo = Slo(alone, scale=3.0)
    assert slo.limit_ms(sample(steps=6)) == pytest.approx(3 * 130)
    assert slo.is_met(sample(0.389, steps=6))
    assert not slo.is_met(sample(0.391, steps=6))
    assert not slo.is_met(sample(0.1, steps=6, error="INTERNAL"))
    assert slo.limit_ms(sample(steps=6, width=256)) == pytest.approx(2 * 3 * 130)  # unseen: by its pixels


def test_time_alone_of_a_single_step_count_goes_to_its_steps() -> None:
    assert Alone.fit([sample(0.8), sample(0.8)]).lines[128, 128] == pytest.approx((0, 100))
