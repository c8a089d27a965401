"""When a server that crashes is started again."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from tools.triton.errors import ServerFailed
from tools.triton.server import TritonServer
from tools.triton.stub import Stub
from tools.triton.watching.supervisor import Restarts, supervise


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


class Crashing(TritonServer):
    """One that crashes at once, cannot be started twice, and then is stopped from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: Iterator[Exception | None] = iter(
            [None, OSError(errno.ENOMEM, "Cannot allocate memory"), ServerFailed("not ready"), None]
        )
        self.exit_codes = iter([-11, 0])

    def start(self, look: Callable[[], None] = lambda: None) -> TritonServer:
        if error := next(self.starts):
            raise error
        return self

    def poll(self) -> int | None:
        return next(self.exit_codes)

    def stop(self) -> int:
        return 0

    def stubs(self) -> list[Stub]:
        return []


class AtOnce(Restarts):
    def after_crash(self, lived_s: float, now: float) -> float | None:
        return 0.0 if super().after_crash(lived_s, now) else None


def test_a_restart_without_memory_is_tried_again_as_any_that_fails() -> None:
    server = Crashing()
    supervise(server, AtOnce(limit=3), lambda: None, lambda: None)
    assert list(server.starts) == []
