"""How many users there are, over time. Locust asks once a second."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Steps:
    """From `low` to `high` users in so many equal levels, each as long."""

    low: int
    high: int
    levels: int
    level_s: float

    def users(self, elapsed_s: float) -> int | None:
        """None when it is over."""
        level = int(elapsed_s / self.level_s)
        if level >= self.levels:
            return None
        return round(self.low + (self.high - self.low) * level / (self.levels - 1))


@dataclass(frozen=True)
class Ramp:
    """From `low` to `high` users, evenly."""

    low: int
    high: int
    ramp_s: float

    def users(self, elapsed_s: float) -> int | None:
        """None when it is over."""
        if elapsed_s >= self.ramp_s:
            return None
        return self.low + math.floor((self.high - self.low + 1) * elapsed_s / self.ramp_s)


@dataclass(frozen=True)
class Spike:
    """`low` users, then at once `high`, then `low` again: each as long."""

    low: int
    high: int
    part_s: float

    def users(self, elapsed_s: float) -> int | None:
        """None when it is over."""
        part = int(elapsed_s / self.part_s)
        return (self.low, self.high, self.low)[part] if part < 3 else None


@dataclass
class Saturation:
    """Tells when more users bring no more requests a second.

    Throughput is taken over windows of at least `window_s` seconds and LEAST_FINISHED requests. A server is saturated
    when half as many users again as at the best throughput have not raised it by GAIN.
    """

    GAIN = 1.05
    MORE_USERS = 1.5
    LEAST_FINISHED = 20

    window_s: float
    best: float = 0.0
    """Requests a second."""
    best_users: int = 0
    _since: tuple[float, int] | None = field(default=None, init=False)

    def reached(self, elapsed_s: float, users: int, finished: int) -> bool:
        """With the requests finished so far; times and counts only grow."""
        if self._since is None:
            self._since = (elapsed_s, finished)
            return False
        began_s, before = self._since
        if elapsed_s - began_s < self.window_s or finished - before < self.LEAST_FINISHED:
            return False
        throughput = (finished - before) / (elapsed_s - began_s)
        self._since = (elapsed_s, finished)
        if throughput > self.best * self.GAIN:
            self.best, self.best_users = throughput, users
            return False
        return users >= self.MORE_USERS * self.best_users
