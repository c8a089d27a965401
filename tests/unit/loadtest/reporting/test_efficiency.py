from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.reporting.efficiency import efficiencies
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.lab.measured import measured, measurement, record


def test_efficiency_is_the_documented_sum() -> None:
    slow = measured([measurement([1.0, 1.0])])
    fast = measured([measurement([0.5, 0.5])], STRATEGIES["async"])
    scores = efficiencies([slow, fast])
    assert [scores[1].throughput, scores[1].response, scores[1].utilisation] == pytest.approx([1.0, 1.0, 0.8])
    assert scores[1].score == pytest.approx(0.5 + 0.3 + 0.2 * 0.8)
    assert scores[0].score == pytest.approx(0.5 * 0.5 + 0.3 * 0.5 + 0.2 * 0.8)


def test_efficiency_of_a_strategy_that_answers_nothing() -> None:
    dead = measured([replace(measurement([]), records=[record(error="INTERNAL")])])
    assert efficiencies([dead])[0].score == pytest.approx(0.2 * 0.8)
