"""The knee against what theory says of the queue that is swept."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

import pytest

from loadtest.lab.knee import CLIMB, FALL, SweepPoint, Swept, find_knee, keeps_up, wilson, with_lead
from loadtest.lab.slo import Slo
from loadtest.server.strategies import STRATEGIES
from loadtest.traffic.arrivals import arrivals
from loadtest.traffic.record import Record
from tests.unit.loadtest.lab.measured import record
from tests.unit.loadtest.traffic.queueing import latencies

SERVICE_S = 0.4
REQUESTS = 200
TARGET = 0.95


def queue(rate: float, servers: int, seed: int, requests: int = REQUESTS) -> list[Record]:
    """One run against servers that take SERVICE_S for each request."""
    times = list(itertools.islice(arrivals("poisson", rate, seed), with_lead(requests)))
    return [record(s, at=at) for at, s in zip(times, latencies(times, SERVICE_S, servers), strict=True)]


def knee_of_theory(servers: int, limit_s: float) -> float:
    """By bisection with runs that are long enough to leave nothing to chance."""
    low, high = 0.0, servers / SERVICE_S
    for _ in range(12):
        rate = (low + high) / 2
        found = latencies(itertools.islice(arrivals("poisson", rate, 1), 20_000), SERVICE_S, servers)
        if statistics.fmean(latency <= limit_s for latency in found) >= TARGET:
            low = rate
        else:
            high = rate
    return low


def swept(servers: int, limit_s: float, seed: int, repeats: int = 3) -> Swept:
    """As the sweep does it, with a queue in the place of a server."""
    points: list[SweepPoint] = []
    seeds = itertools.count(seed)
    capacity = servers / SERVICE_S

    def carries(rate: float) -> bool:
        runs: list[Sequence[Record]] = []
        while True:
            runs.append(queue(rate, servers, next(seeds)))
            point = SweepPoint.of(rate, runs, TARGET, Slo(absolute_ms=limit_s * 1000))
            if point.is_clear or len(runs) == repeats:
                points.append(point)
                return point.carried

    find_knee(capacity, carries)
    return Swept(STRATEGIES["baseline"], capacity, sorted(points, key=lambda point: point.rate))


@pytest.mark.parametrize(("servers", "limit_s"), [(1, 1.2), (2, 1.0), (4, 0.8)])
def test_the_knee_is_that_of_theory(servers: int, limit_s: float) -> None:
    """Half of the sweeps are within a tenth, where the last gap alone is a twentieth wide; none is far off."""
    truth = knee_of_theory(servers, limit_s)
    found = [knee.rate / truth for seed in range(0, 5000, 500) if (knee := swept(servers, limit_s, seed).knee)]
    assert len(found) == 10
    assert statistics.median(found) == pytest.approx(1.0, abs=0.1)
    assert min(found) > 0.75 and max(found) < 1.25


def test_a_generous_slo_does_not_hide_that_the_queue_grows() -> None:
    """No request of so short a run waits for a minute, even at thrice what the server can do."""
    found = [swept(4, 60.0, seed) for seed in range(0, 5000, 500)]
    assert all(of.breaks is not None for of in found)
    knees = [of.knee.rate * SERVICE_S / 4 for of in found if of.knee]
    assert statistics.median(knees) == pytest.approx(1.0, abs=0.1)
    assert max(knees) < 1.3


@pytest.mark.parametrize("servers", [1, 4, 16])
def test_a_server_keeps_up_below_its_capacity_only(servers: int) -> None:
    for load, least, most in ((0.7, 0.95, 1.0), (2.0, 0.0, 0.02)):
        verdicts = [keeps_up(queue(load * servers / SERVICE_S, servers, seed)) for seed in range(100)]
        assert least <= statistics.fmean(verdicts) <= most


def test_the_first_requests_of_a_run_do_not_count() -> None:
    """They meet an empty queue."""
    quick = [record(0.1, at=float(n)) for n in range(20)]
    slow = [record(3.0, at=20.0 + n) for n in range(100)]
    assert with_lead(100) == 120
    point = SweepPoint.of(1.0, [[*slow, *quick]], TARGET, Slo(absolute_ms=1000))
    assert (point.figures.requests, point.figures.slo_attainment) == (100, 0.0)


def test_a_verdict_is_clear_where_chance_can_hardly_turn_it() -> None:
    def of(met: int, requests: int) -> SweepPoint:
        lead = [record(0.1, at=float(n)) for n in range(with_lead(requests) - requests)]
        counted = [record(0.1 if n < met else 2.0, at=1000.0 + 10 * n) for n in range(requests)]
        return SweepPoint.of(0.1, [[*lead, *counted]], TARGET, Slo(absolute_ms=1000))

    assert [of(met, 100).is_clear for met in (100, 98, 94, 85)] == [True, False, False, True]
    assert [of(met, 100).carried for met in (100, 98, 94, 85)] == [True, True, False, False]


def test_intervals_are_wilsons() -> None:
    assert wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("true_knee", "tolerance"), [(0.03, 0.05), (0.3, 0.03), (0.72, 0.03), (1.1, 0.03), (2.2, 0.13)]
)
def test_the_knee_is_closed_in_upon(true_knee: float, tolerance: float) -> None:
    """A server of capacity 10/s that carries up to a share of that, without chance."""
    held: list[float] = []

    def carries(rate: float) -> bool:
        if good := rate <= 10 * true_knee:
            held.append(rate)
        return good

    find_knee(10.0, carries)
    assert max(held, default=0.0) == pytest.approx(10 * true_knee, abs=10 * tolerance)


@pytest.mark.parametrize(
    ("verdict", "rates"), [(True, CLIMB), (False, (CLIMB[0], *FALL))], ids=["nothing breaks", "everything breaks"]
)
def test_the_search_ends_also_where_there_is_no_knee(verdict: bool, rates: tuple[float, ...]) -> None:
    tried: list[float] = []

    def carries(rate: float) -> bool:
        tried.append(rate)
        return verdict

    find_knee(1.0, carries)
    assert tuple(tried) == rates
