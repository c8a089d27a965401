"""When requests come, for an open loop: at times that do not depend on how the server answers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

BURST_SHAPE = 0.25
"""Of the gamma distribution of the gaps in bursty traffic: their standard deviation is twice their mean (1/√shape)."""

KINDS = ("poisson", "bursty")


def arrivals(kind: str, rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start, without end, `rate` per second on average; the same for the same seed.

    poisson: the gaps are exponentially distributed, as those of many people who do not know of each other.
    bursty: gaps of the same mean, but gamma distributed with shape BURST_SHAPE: many short ones, some long.
    """
    chance = random.Random(seed)
    if kind == "poisson":
        gaps = (chance.expovariate(rate) for _ in itertools.count())
    elif kind == "bursty":
        gaps = (chance.gammavariate(BURST_SHAPE, 1 / (rate * BURST_SHAPE)) for _ in itertools.count())
    else:
        raise ValueError(f"arrivals: is {kind!r}; must be {' or '.join(KINDS)}")
    return itertools.accumulate(gaps)
