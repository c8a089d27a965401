"""The end of the gateway, as it comes to those who wait."""

from __future__ import annotations

import asyncio

from fluxclient.errors import Cancelled


class Stopping:
    """Belongs to one event loop. Once it is `over`, whoever still waits is told so instead of being cut off."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def end(self) -> None:
        self._over.set()

    async def over(self) -> None:
        await self._over.wait()


def stopped() -> Cancelled:
    """What those are told."""
    return Cancelled("is being stopped; send the request again", field="gateway")
