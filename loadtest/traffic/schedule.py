"""What a test sends, and when: the same for the same schedule, however many processes share it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.traffic.arrivals import arrivals
from loadtest.traffic.mix import Mix
from loadtest.traffic.order import TimedOrder
from loadtest.traffic.trace import load_trace


@dataclass(frozen=True, slots=True)
class Schedule:
    """Orders with their times."""

    mix: str
    mix_seed: int | None
    """None: the mix's own."""
    requests: int
    """In all processes together; 0: without end."""
    arrivals: str
    """closed, trace, or one of arrivals.KINDS."""
    rate: float
    trace: str

    @property
    def is_open_loop(self) -> bool:
        return self.arrivals != "closed"

    def share(self, index: int = 0, of: int = 1) -> Iterator[TimedOrder]:
        """The part that one process sends: every `of`-th order, from number `index` on. Raises BadInput."""
        return itertools.islice(self._whole(), index, self.requests or None, of)

    def _whole(self) -> Iterator[TimedOrder]:
        if self.arrivals == "trace":
            return iter(load_trace(self.trace))
        mix = Mix.load(self.mix)
        seed = mix.seed if self.mix_seed is None else self.mix_seed
        orders = mix.orders(seed)
        if not self.is_open_loop:
            return (TimedOrder(order, None) for order in orders)
        times_s = arrivals(self.arrivals, self.rate, seed)
        return (TimedOrder(order, at_s) for order, at_s in zip(orders, times_s, strict=False))
