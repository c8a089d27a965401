from __future__ import annotations

import pytest

from loadtest.lab.slo import Alone, Slo
from tests.unit.loadtest.lab.measured import record


def test_slo_is_a_multiple_of_the_fitted_time_alone() -> None:
    alone = Alone.fit([record(0.010 + 0.020 * steps, steps=steps) for steps in (4, 4, 8, 12)])
    assert alone.lines[128, 128] == pytest.approx((10, 20))
    slo = Slo(alone, scale=3.0)
    assert slo.limit_ms(record(steps=6)) == pytest.approx(3 * 130)
    assert slo.is_met(record(0.389, steps=6))
    assert not slo.is_met(record(0.391, steps=6))
    assert not slo.is_met(record(0.1, steps=6, error="INTERNAL"))
    assert slo.limit_ms(record(steps=6, width=256)) == pytest.approx(2 * 3 * 130)  # unseen: by its pixels


def test_time_alone_of_a_single_step_count_goes_to_its_steps() -> None:
    assert Alone.fit([record(0.8), record(0.8)]).lines[128, 128] == pytest.approx((0, 100))
