from __future__ import annotations

from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.lab.measured import measured, measurement, report, two_strategies


def test_the_text_tells_best_gain_and_advice() -> None:
    text = two_strategies().text()
    assert "Best: async, with an efficiency score of 0.96; against baseline: throughput +100.0 %" in text
    assert "Changes against baseline" in text
    assert "Advice on baseline:" in text
    assert "no GPU on this machine" in text
    assert "Efficiency = 0.5 × throughput score" in text
    assert "PARTIAL" not in text
    assert two_strategies(partial="interrupted").text().startswith("PARTIAL: interrupted\n")


def test_a_gain_that_may_be_chance_is_called_so() -> None:
    base = [measurement([second], repeat=n) for n, second in enumerate((1.0, 2.0, 1.5))]
    other = [measurement([second], repeat=n) for n, second in enumerate((0.9, 2.1, 1.2))]
    assert "may be chance" in report(measured(base), measured(other, STRATEGIES["async"])).verdict()


def test_one_strategy_has_nothing_to_be_compared_with() -> None:
    assert report(measured([measurement([1.0])])).verdict() == "Only baseline was measured; --strategies all compares."
