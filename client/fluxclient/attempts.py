"""Trying again: what may be, how soon, and in what is left of the caller's time."""

from __future__ import annotations

import random
import time

from fluxclient.errors import Cancelled, ConnectionFailed, FluxError, NotFound, Overloaded
from fluxclient.request import Request
from fluxclient.result import Progress, Result

FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 10.0


def may_be_tried_again(error: FluxError) -> bool:
    """Whether the server did not begin the request, or has let go of it, so that it is drawn once.

    Where a connection broke that is all but sure: a Triton that lives on draws what came by plain infer over HTTP to
    its end, for nobody, beside what is sent again.
    """
    stopping = error.code == "UNAVAILABLE" or (isinstance(error, Cancelled) and error.field == "server")
    lost_device = error.code == "INTERNAL" and error.field == "device"  # and its model is being loaded anew
    # Triton says so of a model that it has unloaded, as it does when it stops or loads it anew.
    unloaded = isinstance(error, NotFound) and "has no available versions" in error.text
    return isinstance(error, ConnectionFailed | Overloaded) or stopping or lost_device or unloaded


def has_begun(shown: Progress | list[Result]) -> bool:
    """Whether what a request has shown is more than that it still waits."""
    return not isinstance(shown, Progress) or shown.step > 0


class Attempts:
    """Those at one request. A request that has shown a step is not tried again."""

    def __init__(self, request: Request, retries: int) -> None:
        self._request = request
        self._retries = retries
        self._made = 0
        self._end_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s

    def next(self) -> Request:
        """The request, with the time that is left."""
        self._made += 1
        if self._made == 1 or self._end_s is None:
            return self._request
        return self._request.within(max(0.001, self._end_s - time.monotonic()))

    def pause_s(self, error: FluxError) -> float:
        """How long to wait before the next attempt, at random so that clients do not come back all at once.

        Raises `error` where there is to be none: it is no use, all were made, or the time would be over.
        """
        pause_s = random.uniform(0.5, 1.0) * min(FIRST_PAUSE_S * 2.0 ** (self._made - 1), MAX_PAUSE_S)
        late = self._end_s is not None and time.monotonic() + pause_s >= self._end_s
        if not may_be_tried_again(error) or self._made > self._retries or late:
            raise error
        return pause_s
