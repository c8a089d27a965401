"""What the page tells of the server in its head, and what its fields begin with."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from fluxclient.async_client import AsyncFluxClient
from fluxclient.errors import FluxError
from fluxclient.statistics import Statistics

FRESH_S = 1.0
"""So long one look at the server serves all pages that are open."""


class PageState:
    """Belongs to one event loop."""

    def __init__(self, client: AsyncFluxClient) -> None:
        self._client = client
        self._looking = asyncio.Lock()
        self._taken_s = -FRESH_S
        self._last: dict[str, Any] = {}

    async def look(self) -> dict[str, Any]:
        """At most FRESH_S old. What is not known, as where the server's metrics are out of reach, is null or empty."""
        async with self._looking:
            if not self._last or time.monotonic() - self._taken_s >= FRESH_S:
                self._last, self._taken_s = await self._ask(), time.monotonic()
            return self._last

    async def _ask(self) -> dict[str, Any]:
        health = await self._client.health()
        statistics: Statistics | None = None
        if health:
            with suppress(FluxError):  # its metrics may be out of reach while it draws
                statistics = await self._client.statistics()
        checkpoint = statistics.checkpoint if statistics else ""
        return {
            "live": health.live,
            "ready": bool(health),
            "model": checkpoint.rstrip("/").rpartition("/")[2] or self._client.model,  # without its folder or owner
            "waiting": statistics.waiting if statistics else None,
            "running": statistics.running if statistics else None,
            "defaults": statistics.defaults if statistics else {},
            "limits": statistics.limits if statistics else {},
        }
