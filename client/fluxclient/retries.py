"""Trying again: what may be, how soon, and in what is left of the caller's time.

tenacity or stamina would take the place of the loop around this, six lines, but of nothing here: an attempt is a stream
that may have shown something, each is sent with less time than the last, and a proxy's cut is known by two of them.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

from fluxclient.errors import Cancelled, ConnectionFailed, FluxError, NotFound, Overloaded
from fluxclient.inputs.request import Request
from fluxclient.result import Progress, Result
from fluxclient.transport.proxies import LONG_S, SAME_S, cut_by_proxy, says_proxy

FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 10.0

_AWAY = ("has no available versions", "is not at ready state")


def may_be_tried_again(error: FluxError) -> bool:
    """Whether the server did not begin the request, or has let go of it, so that it is drawn once.

    Where a connection broke that is all but sure: a Triton that lives on draws what came by plain infer over HTTP to
    its end, for nobody, beside what is sent again. Where a proxy ended it, the server may well go on.
    """
    stopping = error.code == "UNAVAILABLE" or (isinstance(error, Cancelled) and error.field == "server")
    lost_device = error.code == "INTERNAL" and error.field == "device"  # and its model is being loaded anew
    # Triton says so of a model that it has unloaded or is loading, as it does when it stops or loads it anew.
    away = isinstance(error, NotFound) and any(saying in error.text for saying in _AWAY)
    broken = isinstance(error, ConnectionFailed) and error.field != "proxy"  # behind which the server lives
    return broken or isinstance(error, Overloaded) or stopping or lost_device or away


class Attempts:
    """Those at one request. A request that has shown a step is not tried again."""

    def __init__(self, request: Request, retries: int) -> None:
        self._request = request
        self._retries = retries
        self._made = 0
        self._end_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        self._sent_s = 0.0
        self._heard = self._begun = False
        """Whether the server has said anything of this attempt, and whether the caller has seen a step of it."""
        self._cut_s: float | None = None
        """How old the last attempt was that broke while it was being drawn, if it was old."""

    def next(self) -> Request:
        """The request, with the time that is left."""
        self._made += 1
        self._sent_s = time.monotonic()
        self._heard = self._begun = False
        if self._made == 1:
            return self._request
        return self._request.within(None if self._end_s is None else max(0.001, self._end_s - self._sent_s))

    def hears(self, item: Progress | list[Result]) -> None:
        """To be told of all that comes. What nobody saw may begin anew, and so may what still waits."""
        self._heard = True
        self._begun = self._request.shows_progress and not (isinstance(item, Progress) and item.step == 0)

    def pause_s(self, error: FluxError) -> float:
        """How long to wait before the next attempt, at random so that clients do not come back all at once.

        Raises `error`, or what it stands for, where there is to be none: it is no use, all were made, or the time
        would be over.
        """
        pause_s = random.uniform(0.5, 1.0) * min(FIRST_PAUSE_S * 2.0 ** (self._made - 1), MAX_PAUSE_S)
        late = self._end_s is not None and time.monotonic() + pause_s >= self._end_s
        waited_s = time.monotonic() - self._sent_s
        if says_proxy(error, waited_s) or self._is_cut_again(error, waited_s):
            raise cut_by_proxy(error, waited_s) from error
        if self._begun or not may_be_tried_again(error) or self._made > self._retries or late:
            raise error
        if error.field == "silence" and self._request.silence_s is not None:
            # Where it is not the death of the model but a server or a proxy without signs of life, this ends somewhere.
            self._request = replace(self._request, silence_s=2 * self._request.silence_s)
        return pause_s

    def _is_cut_again(self, error: FluxError, waited_s: float) -> bool:
        """Whether a connection breaks in the middle of the drawing as long after the request as the one before."""
        broke = self._heard and isinstance(error, ConnectionFailed) and error.field == "connection"
        if not broke or waited_s < LONG_S:
            return False
        before_s, self._cut_s = self._cut_s, waited_s
        return before_s is not None and abs(waited_s - before_s) < SAME_S
