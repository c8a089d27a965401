"""Requests by the time at which they are too late."""

from __future__ import annotations

import heapq
from itertools import count

from fluxengine.errors import DeadlineExceeded
from fluxengine.job import Ticket


class Deadlines:
    """Used by the engine's thread alone. Times are of `time.monotonic()`."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._numbers = count()

    def add(self, ticket: Ticket) -> None:
        if ticket.request.deadline_s is not None:
            heapq.heappush(self._heap, (ticket.request.deadline_s, next(self._numbers), ticket))

    def until_next_s(self, now_s: float) -> float | None:
        """How long it is to the first of them; None if there is none."""
        return max(0.0, self._heap[0][0] - now_s) if self._heap else None

    def take_late(self, now_s: float, alive: int) -> list[Ticket]:
        """Those past their deadline that have not ended. `alive` is how many requests there are in all."""
        if len(self._heap) > 2 * alive + 64:  # do not keep what ended long before its deadline
            self._heap = [entry for entry in self._heap if not entry[2].ended]
            heapq.heapify(self._heap)
        late = []
        while self._heap and (self._heap[0][0] <= now_s or self._heap[0][2].ended):
            ticket = heapq.heappop(self._heap)[2]
            if not ticket.ended:
                late.append(ticket)
        return late


def too_late(ticket: Ticket, now_s: float) -> DeadlineExceeded:
    """What the caller is told."""
    done, total = sum(job.step for job in ticket.jobs), sum(job.total_steps for job in ticket.jobs)
    where = f"at step {done} of {total}" if done else "while waiting"
    return DeadlineExceeded("deadline", f"passed after {(now_s - ticket.request.arrival_s) * 1e3:.0f} ms, {where}")
