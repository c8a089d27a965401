"""Whom to ask whether the caller is still there. Each question is a round trip to the server process, which takes time
from the steps, so few are asked at a time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

POLL_S = 0.05
ROUND_S = 5.0
"""By then everybody who only waits has been asked."""
LOOKS_AT_DRAWN, LOOKS_AT_NEXT = 5, 4
"""How many of those that hold a place on the device, and of those that come next, are asked at a time."""
MORE_LOOKS = 3
"""For each that has left: callers leave in crowds."""


class Caller(Protocol):
    looked_at_s: float
    """When it was last asked."""

    @property
    def is_drawn(self) -> bool: ...

    @property
    def order(self) -> float:
        """Who is lower comes sooner."""


C = TypeVar("C", bound=Caller)


def find_leavers(callers: Iterable[C], has_left: Callable[[C], bool]) -> Iterator[C]:
    """Those found to have left, of the few that are asked now. To be called every POLL_S."""
    by_age = sorted(callers, key=lambda caller: caller.looked_at_s)  # longest ago first
    on_device = {id(caller) for caller in by_age if caller.is_drawn}
    drawn = [caller for caller in by_age if id(caller) in on_device][:LOOKS_AT_DRAWN]
    waiting = [caller for caller in by_age if id(caller) not in on_device]
    following = heapq.nsmallest(LOOKS_AT_NEXT, waiting, key=lambda caller: caller.order)
    chosen = {id(caller) for caller in (*drawn, *following)}
    others = (caller for caller in by_age if id(caller) not in chosen)
    looks = 1 + int(len(waiting) * POLL_S / ROUND_S)
    for caller in (*drawn, *following):
        if has_left(caller):
            looks += MORE_LOOKS
            yield caller
    for caller in others:
        if looks == 0:
            return
        looks -= 1
        if has_left(caller):
            looks += MORE_LOOKS
            yield caller
