"""An event loop in a thread of its own, for those who have none."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from typing import Any, TypeVar

from fluxclient.errors import Cancelled
from fluxclient.result import Outputs
from fluxclient.transport.interface import Call

T = TypeVar("T")


class LoopThread:
    """Any thread may use it, until it is closed."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fluxclient-http", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, waited for. Raises Cancelled if the loop is closed meanwhile."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except CancelledError:
            raise Cancelled("the client was closed meanwhile", field="client") from None
        except BaseException:  # Ctrl-C here must end it there
            future.cancel()
            raise

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancels all that runs, awaits `last`, and ends the thread. Closing twice is no error."""
        with self._closing:
            if self.loop.is_closed():
                return
            self.run(self._end(last))
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await last()
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()  # names of hosts are looked up there


class ThreadedCall:
    """A call of an event loop, for a thread: what is awaited of it blocks."""

    def __init__(self, loop: LoopThread, call: Call) -> None:
        self._came: queue.SimpleQueue[Outputs | BaseException | None] = queue.SimpleQueue()
        self._call = call
        self._future = asyncio.run_coroutine_threadsafe(self._pump(), loop.loop)
        self._future.add_done_callback(self._end)  # also of a call that is cancelled before it began

    def cancel(self) -> None:
        self._future.cancel()

    async def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        while (item := self._came.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    async def _pump(self) -> None:
        async with aclosing(self._call.__aiter__()) as responses:
            async for outputs in responses:
                self._came.put(outputs)

    def _end(self, future: Future[None]) -> None:
        self._came.put(None if future.cancelled() else future.exception())
