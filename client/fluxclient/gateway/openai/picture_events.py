"""What is told of a picture while it comes about, for a caller who may leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fluxclient.gateway.stopping import Stopping, stopped
from fluxclient.result import Event


class PictureEvents:
    """The events of a picture that comes about, read by a task of its own.

    So `cancel` needs not be awaited: those who call it are often themselves being cancelled. When the gateway's time is
    over, the last of the events is Cancelled.
    """

    def __init__(self, events: AsyncGenerator[Event, None], stopping: Stopping) -> None:
        self._came: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._first: Event | None = None
        self._task = asyncio.create_task(self._read(events))
        self._ending = asyncio.create_task(self._end(stopping))

    async def begin(self, within_s: float) -> None:
        """Waits for the first event, but no longer than this. Raises what went wrong by then."""
        try:
            first = await asyncio.wait_for(self._came.get(), within_s)
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            return
        if isinstance(first, Exception):
            raise first
        self._first = first

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self._first is not None:
            yield self._first
        while (event := await self._came.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self) -> None:
        """Stops it on the server too; nothing happens once it has ended."""
        self._task.cancel()
        self._ending.cancel()

    async def _end(self, stopping: Stopping) -> None:
        await stopping.over()
        self._task.cancel()
        self._came.put_nowait(stopped())

    async def _read(self, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._came.put_nowait(event)
        except Exception as error:
            self._came.put_nowait(error)
        else:
            self._came.put_nowait(None)
