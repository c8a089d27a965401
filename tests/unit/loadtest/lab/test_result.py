from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.lab.result import baseline_of, change
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.lab.measured import measured, measurement, record


def test_a_measurement_lasts_from_the_first_intended_start_to_the_last_answer() -> None:
    records = [record(1.0, at=5.0, sent=7.0), record(3.0, at=6.0)]
    assert replace(measurement([]), records=records).seconds == pytest.approx(4.0)
    assert measurement([]).seconds == 0.0


def test_pooled_figures_are_of_all_requests_and_each_of_one_measurement() -> None:
    its = measured([measurement([1.0, 1.0]), measurement([2.0, 2.0], repeat=2)])
    assert its.pooled.throughput_per_s == pytest.approx(4 / 3)
    assert [of.throughput_per_s for of in its.each] == [2.0, 1.0]
    assert its.pooled.p50_ms == pytest.approx(1500)
    assert its.interval("throughput_per_s") == pytest.approx(12.706 * 0.7071 / 1.4142, rel=1e-3)


def test_classes_are_told_apart_by_name_and_priority() -> None:
    records = [record(0.5, kind="person", priority=1), record(2.0, kind="job", priority=4), record(1.0, kind="job")]
    its = measured([replace(measurement([]), records=records)])
    assert [(of.name, of.priority) for of in its.classes] == [("job", 0), ("job", 4), ("person", 1)]
    assert [of.slowdown for of in its.classes] == pytest.approx([1.0, 2.0, 0.5])
    assert its.fairness == pytest.approx(3.5**2 / (3 * 5.25))


def test_changes_pair_the_rounds_of_an_interrupted_campaign() -> None:
    base = measured([measurement([1.0], repeat=1), measurement([2.0], repeat=2), measurement([4.0], repeat=3)])
    other = measured([measurement([0.5], repeat=1), measurement([1.0], repeat=2)], STRATEGIES["async"])
    found = change(other, base, "throughput_per_s")
    assert found is not None
    assert found.percent == pytest.approx(100)
    assert baseline_of([other, base]) is base
    assert baseline_of([other]) is other
