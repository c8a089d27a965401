"""Arrivals have the rate and the distribution that theory gives them."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest

from loadtest.traffic.arrivals import BURST_SHAPE, KINDS, arrivals
from tests.unit.loadtest.traffic.queueing import latencies, pollaczek_khinchine

RATE = 40.0
COUNT = 40_000


def gaps(kind: str, seed: int = 1, count: int = COUNT) -> list[float]:
    times = [0.0, *itertools.islice(arrivals(kind, RATE, seed), count)]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_rate_is_what_was_asked_for(kind: str) -> None:
    assert 1 / statistics.mean(gaps(kind)) == pytest.approx(RATE, rel=0.03)


def test_poisson_gaps_are_exponentially_distributed() -> None:
    """Kolmogorov and Smirnov: the largest distance to the distribution, at a level of 0.1 %."""
    found = sorted(gaps("poisson"))
    distance = max(abs((index + 0.5) / COUNT - (1 - math.exp(-RATE * gap))) for index, gap in enumerate(found))
    assert distance < 1.95 / math.sqrt(COUNT)


def test_counts_of_poisson_arrivals_vary_as_much_as_their_mean_is_large() -> None:
    counts = [0] * int(COUNT / RATE)
    for time in itertools.takewhile(lambda time: time < len(counts), arrivals("poisson", RATE, 1)):
        counts[int(time)] += 1
    assert statistics.variance(counts) / statistics.mean(counts) == pytest.approx(1.0, abs=0.15)


def test_bursty_gaps_vary_twice_as_much() -> None:
    found = gaps("bursty")
    assert statistics.stdev(found) / statistics.mean(found) == pytest.approx(1 / math.sqrt(BURST_SHAPE), rel=0.05)


def test_poisson_arrivals_queue_as_theory_says() -> None:
    """M/D/1 at 70 %: the queue would be shorter for even arrivals, and longer for bursts."""
    service_s = 0.7 / RATE
    times = list(itertools.islice(arrivals("poisson", RATE, 1), COUNT))
    assert statistics.mean(latencies(times, service_s)) == pytest.approx(pollaczek_khinchine(RATE, service_s), rel=0.05)
    bursts = list(itertools.islice(arrivals("bursty", RATE, 1), COUNT))
    assert statistics.mean(latencies(bursts, service_s)) > 1.5 * pollaczek_khinchine(RATE, service_s)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_arrivals_repeatable(kind: str) -> None:
    assert gaps(kind, 3, 50) == gaps(kind, 3, 50)
    assert gaps(kind, 3, 50) != gaps(kind, 4, 50)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="arrivals: is 'sometimes'; must be poisson or bursty"):
        arrivals("sometimes", 1.0, 1)
