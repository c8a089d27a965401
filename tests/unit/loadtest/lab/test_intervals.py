from __future__ import annotations

import random
import statistics

import pytest

from loadtest.lab.intervals import half_width, independent_change, paired_change


def test_half_width_is_students_for_a_known_sample() -> None:
    # Mean 5, standard deviation 1.5811, n = 5: t(4) = 2.776 → 2.776 * 1.5811 / √5.
    assert half_width([3, 4, 5, 6, 7]) == pytest.approx(1.9630, abs=1e-3)


def test_one_value_has_no_interval() -> None:
    assert half_width([3.0]) is None
    change = paired_change([2.0], [1.0])
    assert change is not None
    assert change.percent == pytest.approx(100)
    assert (change.low, change.is_real) == (None, None)
    assert str(change) == "+100.0 %"


def test_paired_changes_cancel_a_drift_of_the_machine() -> None:
    """Each round is slower than the one before, in both; the ratio is 1.5 throughout."""
    base = [10.0, 8.0, 5.0, 3.0]
    change = paired_change([1.5 * value for value in base], base)
    assert change is not None
    assert [change.percent, change.low, change.high] == pytest.approx([50, 50, 50])
    assert change.is_real
    apart = independent_change([1.5 * value for value in base], base)
    assert apart is not None
    assert apart.is_real is False


def test_a_round_without_its_pair_is_left_out() -> None:
    change = paired_change([2.0, 2.0, 9.0], [1.0, 1.0])
    assert change is not None
    assert change.percent == pytest.approx(100)


@pytest.mark.parametrize("values", [[], [0.0, 1.0]])
def test_there_is_no_change_of_nothing_or_from_zero(values: list[float]) -> None:
    assert paired_change(values, [1.0, 1.0]) is None
    assert independent_change(values, [1.0, 1.0]) is None


def test_welch_agrees_with_a_worked_example() -> None:
    """Logarithms 1, 2, 3 and 3, 4, 5: difference 2, standard error √(2/3) = 0.8165, 4 degrees of freedom."""
    e = 2.718281828459045
    change = independent_change([e**3, e**4, e**5], [e, e**2, e**3])
    assert change is not None
    assert change.percent == pytest.approx(100 * (e**2 - 1))
    assert change.low == pytest.approx(100 * (e ** (2 - 2.776 * 0.81650) - 1), rel=1e-3)
    assert change.is_real is False


def test_intervals_hold_the_truth_in_95_of_100_cases() -> None:
    chance = random.Random(5)
    held = 0
    for _ in range(2000):
        values = [chance.gauss(10, 2) for _ in range(5)]
        half = half_width(values)
        assert half is not None
        held += abs(statistics.fmean(values) - 10) <= half
    assert 0.935 <= held / 2000 <= 0.965


def test_an_interval_that_says_nothing_is_not_printed() -> None:
    change = paired_change([1.0, 30.0], [1.0, 1.0])
    assert change is not None
    assert str(change).endswith("% (anything: too few repeats)")
