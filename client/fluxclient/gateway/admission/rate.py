"""How much a caller may ask for in how much time."""

from __future__ import annotations

import math
import time

import limits
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from fluxclient.errors import InvalidArgument
from fluxclient.gateway.errors import ApiError


class Rate:
    """Counts drawing requests by caller, in a window that moves."""

    def __init__(self, limit: str | None) -> None:
        self._limit = limits.parse(limit) if limit is not None else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def spend(self, caller: str, requests: int = 1) -> None:
        """Counts `requests` of a caller. Raises ApiError (429) if they are too many now, and then counts none."""
        if self._limit is None:
            return
        if requests > self._limit.amount:
            raise InvalidArgument(f"are {requests}; the rate limit allows {self._limit}", field="prompts")
        if await self._limiter.hit(self._limit, caller, cost=requests):
            return
        reset_s, _ = await self._limiter.get_window_stats(self._limit, caller)
        wait_s = max(1, math.ceil(reset_s - time.time()))
        raise ApiError(
            429,
            f"rate limit reached: {self._limit}; try again in {wait_s} s",
            code="rate_limit_exceeded",
            kind="rate_limit_error",
            headers={"Retry-After": str(wait_s)},
        )
