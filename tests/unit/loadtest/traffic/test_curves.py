from __future__ import annotations

import pytest

from loadtest.traffic.curves import Ramp, Saturation, Spike, Steps


def test_steps_are_equal_and_end_at_the_top() -> None:
    shape = Steps(low=2, high=8, levels=4, level_s=10)
    assert [shape.users(at) for at in (0, 9.9, 10, 20, 30, 39.9, 40)] == [2, 2, 4, 6, 8, 8, None]


def test_a_ramp_rises_evenly_and_reaches_the_top() -> None:
    shape = Ramp(low=1, high=10, ramp_s=10)
    assert [shape.users(at) for at in (0, 0.9, 1, 5, 9.9, 10)] == [1, 1, 2, 6, 10, None]


def test_a_spike_goes_up_at_once_and_back() -> None:
    shape = Spike(low=2, high=50, part_s=10)
    assert [shape.users(at) for at in (0, 9.9, 10, 19.9, 20, 29.9, 30)] == [2, 2, 50, 50, 2, 2, None]


def ramped(capacity: float, seconds: int = 200) -> tuple[int | None, Saturation]:
    """A user more each second, each good for one request a second, up to what the server can do."""
    saturation = Saturation(window_s=4)
    finished = 0.0
    for second in range(seconds):
        users = second + 1
        finished += min(users, capacity)
        if saturation.reached(second, users, int(finished)):
            return users, saturation
    return None, saturation


def test_saturation_is_told_soon_after_the_capacity_is_reached() -> None:
    users, saturation = ramped(capacity=40)
    assert users is not None and 40 < users <= 75
    assert saturation.best == pytest.approx(40, rel=0.06)


def test_a_server_that_keeps_up_is_not_saturated() -> None:
    assert ramped(capacity=1000)[0] is None


def test_a_window_with_few_requests_is_not_judged() -> None:
    saturation = Saturation(window_s=1)
    assert not any(saturation.reached(second, 2**second, second) for second in range(15))
