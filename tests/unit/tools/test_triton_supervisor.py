"""When a server that crashes is started again."""

from __future__ import annotations

from tools.triton.supervisor import Restarts


def test_the_pause_doubles_while_it_crashes_at_once_and_begins_anew_once_it_has_lived() -> None:
    restarts = Restarts(limit=100, longest_s=8.0, recovered_s=60.0)
    assert [restarts.after_crash(lived_s=1.0, now=now) for now in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert restarts.after_crash(lived_s=61.0, now=70.0) == 1.0
    assert restarts.after_crash(lived_s=0.0, now=71.0) == 2.0


def test_only_the_crashes_of_the_last_minutes_count() -> None:
    restarts = Restarts(limit=2, within_s=600.0)
    assert restarts.after_crash(1.0, now=0.0)
    assert restarts.after_crash(500.0, now=500.0)
    assert restarts.after_crash(110.0, now=610.0), "the first is long ago"
    assert restarts.after_crash(1.0, now=611.0) is None


def test_starts_that_fail_one_after_another_count_however_long_each_takes() -> None:
    restarts = Restarts(limit=2, within_s=600.0)
    assert restarts.after_crash(5000.0, now=0.0)
    assert restarts.after_crash(0.0, now=1000.0)
    assert restarts.after_crash(0.0, now=2000.0) is None
    assert restarts.after_crash(1.0, now=3000.0), "it has served since"


def test_no_restart_at_all() -> None:
    assert Restarts(limit=0).after_crash(lived_s=1e6, now=1e6) is None
