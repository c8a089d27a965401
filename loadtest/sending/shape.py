"""Shapes of load, as Locust takes them: `curves` say how many users, this tells Locust."""

from __future__ import annotations

import logging

from locust import LoadTestShape

from loadtest.sending.settings import Settings
from loadtest.traffic.curves import Ramp, Saturation, Spike, Steps

WINDOWS = 10
"""A ramp's throughput is looked at so many times, or less often where requests are few."""

log = logging.getLogger(__name__)


class FluxShape(LoadTestShape):
    """One of `--shape`; a ramp also ends when more users bring no more throughput."""

    use_common_options = True

    def __init__(self, settings: Settings, users: int, run_time_s: float | None) -> None:
        """`users` is the most that there are."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._curve = _curve(settings, users)
        self._window_s = settings.shape_time_s / WINDOWS
        self._run_time_s = run_time_s
        self._saturation = Saturation(self._window_s)

    def reset_time(self) -> None:
        super().reset_time()  # type: ignore[no-untyped-call]
        self._saturation = Saturation(self._window_s)

    def tick(self) -> tuple[int, float] | None:
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        users = self._curve.users(elapsed_s)
        over = self._run_time_s is not None and elapsed_s >= self._run_time_s
        if users is None or over or (isinstance(self._curve, Ramp) and self._saturated(elapsed_s)):
            return None
        return users, float(users)

    def _saturated(self, elapsed_s: float) -> bool:
        assert self.runner is not None  # Locust asks for no tick before it has one
        saturation = self._saturation
        finished = self.runner.stats.total.num_requests
        if not saturation.reached(elapsed_s, self.runner.user_count, finished):
            return False
        log.info("saturated: more than %d users bring no more than %.2f/s", saturation.best_users, saturation.best)
        return True


def _curve(settings: Settings, users: int) -> Steps | Ramp | Spike:
    if settings.shape == "steps":
        return Steps(settings.shape_from, users, settings.shape_levels, settings.shape_time_s)
    if settings.shape == "ramp":
        return Ramp(settings.shape_from, users, settings.shape_time_s)
    return Spike(settings.shape_from, users, settings.shape_time_s)
