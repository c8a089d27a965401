"""What theory says of a queue whose service takes always as long."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


def latencies(arrivals_s: Iterable[float], service_s: float, servers: int = 1) -> list[float]:
    """Of each arrival, in seconds: served in order by the first server that is free (Kiefer and Wolfowitz)."""
    free_s = [0.0] * servers
    found = []
    for arrived_s in arrivals_s:
        done_s = max(arrived_s, free_s[0]) + service_s
        heapq.heapreplace(free_s, done_s)
        found.append(done_s - arrived_s)
    return found


def pollaczek_khinchine(rate: float, service_s: float) -> float:
    """The mean latency of M/D/1."""
    utilisation = rate * service_s
    return service_s * (1 + utilisation / (2 * (1 - utilisation)))
