"""What a run sends, and when: the same for the same settings, however many processes share it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.sending.settings import Settings
from loadtest.traffic.arrivals import arrivals
from loadtest.traffic.mix import Mix
from loadtest.traffic.order import Order
from loadtest.traffic.trace import load_trace


@dataclass(frozen=True, slots=True)
class Planned:
    """An order, and when it is to be sent."""

    order: Order
    at_s: float | None
    """From the start of the test, whatever the server does; None in a closed loop: when a user is free."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a plan that one process sends: every `of`-th request, from number `index` on."""

    index: int = 0
    of: int = 1


def planned(settings: Settings, share: Share) -> Iterator[Planned]:
    """A process's share of the plan; without end if the settings name no number of requests. Raises MixError."""
    end = settings.requests or None
    return itertools.islice(_whole(settings), share.index, end, share.of)


def _whole(settings: Settings) -> Iterator[Planned]:
    if settings.arrivals == "trace":
        return iter([Planned(arrival.order, arrival.at_s) for arrival in load_trace(settings.trace)])
    mix = Mix.load(settings.mix)
    seed = mix.seed if settings.mix_seed is None else settings.mix_seed
    orders = mix.requests(seed)
    if settings.arrivals == "closed":
        return (Planned(order, None) for order in orders)
    times_s = arrivals(settings.arrivals, settings.rate, seed)
    return (Planned(order, at_s) for order, at_s in zip(orders, times_s, strict=False))
