"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, overload

from fluxclient.core import DEFAULT_CONCURRENCY, ClientCore, Prompts, check_concurrency, for_many
from fluxclient.errors import FluxError
from fluxclient.health import Health
from fluxclient.in_flight import Use
from fluxclient.inputs.options import Options
from fluxclient.result import Event, Result
from fluxclient.statistics import Statistics
from fluxclient.task_pool import for_each
from fluxclient.transport.connect import connect
from fluxclient.transport.interface import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncFluxClient(ClientCore):
    """Draws pictures on a FLUX server; one is enough for hundreds of tasks of one event loop.

    Its methods are those of `FluxClient`. Cancelling the task that awaits one cancels what it asks for on the server.
    """

    @overload
    async def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...

    @overload
    async def generate(self, prompt: Prompts, **options: Unpack[Options]) -> list[Result]: ...

    async def generate(self, prompt: str | Prompts, **options: Unpack[Options]) -> Result | list[Result]:
        """As `FluxClient.generate`."""
        return await self._generate(prompt, options)

    def stream(self, prompt: str, **options: Unpack[Options]) -> AsyncGenerator[Event, None]:
        """As `FluxClient.stream`, whose `close()` is `aclose()` here."""
        return self._stream(prompt, options)

    async def generate_many(
        self, prompts: Iterable[str], *, concurrency: int = DEFAULT_CONCURRENCY, **options: Unpack[Options]
    ) -> list[Result | FluxError]:
        """As `FluxClient.generate_many`."""
        check_concurrency(concurrency)
        shared = for_many(options)
        waiting = list(prompts)
        answers: dict[int, Result | FluxError] = {}

        async def draw(numbered: tuple[int, str]) -> None:
            number, prompt = numbered
            answers[number] = await self._one_of_many(prompt, shared, use)

        with self._in_flight.use() as use:
            await for_each(enumerate(waiting), draw, min(concurrency, len(waiting)))
        return [answers[number] for number in range(len(waiting))]

    async def health(self) -> Health:
        """As `FluxClient.health`."""
        return await self._health()

    async def statistics(self) -> Statistics:
        """As `FluxClient.statistics`."""
        return await self._statistics()

    async def load(self, parameters: Mapping[str, str] | None = None) -> None:
        """As `FluxClient.load`."""
        await self._load(parameters)

    async def unload(self) -> None:
        """As `FluxClient.unload`."""
        await self._unload()

    async def close(self) -> None:
        """As `FluxClient.close`."""
        self._closing.set()
        await self._close()

    async def __aenter__(self) -> AsyncFluxClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _begin(self) -> None:
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def _transport(self) -> Transport:
        """Tied to an event loop, so it is made in the first that uses the client."""
        loop = asyncio.get_running_loop()
        if self._made is None:
            self._made, self._loop = connect(self._address, blocking=False), loop
        if self._loop not in (None, loop):
            raise RuntimeError("this client belongs to another event loop; make one for each")
        return self._made

    async def _pause(self, seconds: float, use: Use) -> None:
        with suppress(asyncio.TimeoutError):  # another class than TimeoutError in Python 3.10
            await asyncio.wait_for(self._closing.wait(), seconds)
