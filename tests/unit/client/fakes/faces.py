"""Both clients, called in the same way: what a test asks of one, it asks of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from fluxclient import AsyncFluxClient, Event, FluxClient, FluxError, Health, Result, Statistics

T = TypeVar("T")


class Face(Protocol):
    """Each call has a client of its own."""

    def generate(self, prompt: Any, **options: Any) -> Any: ...

    def events(self, prompt: str, most: int | None = None, **options: Any) -> list[Event]:
        """All events of a stream, or as many as `most` before leaving it."""
        ...

    def generate_many(self, prompts: Any, **options: Any) -> list[Result | FluxError]: ...

    def health(self) -> Health: ...

    def statistics(self) -> Statistics: ...

    def load(self, parameters: dict[str, str] | None = None) -> None: ...

    def unload(self) -> None: ...


class SyncFace:
    def __init__(self, url: str, **settings: Any) -> None:
        self._url = url
        self._settings = settings

    def _client(self) -> FluxClient:
        return FluxClient(self._url, **self._settings)

    def generate(self, prompt: Any, **options: Any) -> Any:
        with self._client() as client:
            return client.generate(prompt, **options)

    def events(self, prompt: str, most: int | None = None, **options: Any) -> list[Event]:
        events: list[Event] = []
        with self._client() as client:
            for event in client.stream(prompt, **options):
                events.append(event)
                if len(events) == most:
                    break
        return events

    def generate_many(self, prompts: Any, **options: Any) -> list[Result | FluxError]:
        with self._client() as client:
            return client.generate_many(prompts, **options)

    def health(self) -> Health:
        with self._client() as client:
            return client.health()

    def statistics(self) -> Statistics:
        with self._client() as client:
            return client.statistics()

    def load(self, parameters: dict[str, str] | None = None) -> None:
        with self._client() as client:
            client.load(parameters)

    def unload(self) -> None:
        with self._client() as client:
            client.unload()


class AsyncFace:
    def __init__(self, url: str, **settings: Any) -> None:
        self._url = url
        self._settings = settings

    def _run(self, use: Callable[[AsyncFluxClient], Awaitable[T]]) -> T:
        async def run() -> T:
            async with AsyncFluxClient(self._url, **self._settings) as client:
                return await use(client)

        return asyncio.run(run())

    def generate(self, prompt: Any, **options: Any) -> Any:
        return self._run(lambda client: client.generate(prompt, **options))

    def events(self, prompt: str, most: int | None = None, **options: Any) -> list[Event]:
        async def read(client: AsyncFluxClient) -> list[Event]:
            events: list[Event] = []
            async for event in client.stream(prompt, **options):
                events.append(event)
                if len(events) == most:
                    break
            return events

        return self._run(read)

    def generate_many(self, prompts: Any, **options: Any) -> list[Result | FluxError]:
        return self._run(lambda client: client.generate_many(prompts, **options))

    def health(self) -> Health:
        return self._run(lambda client: client.health())

    def statistics(self) -> Statistics:
        return self._run(lambda client: client.statistics())

    def load(self, parameters: dict[str, str] | None = None) -> None:
        self._run(lambda client: client.load(parameters))

    def unload(self) -> None:
        self._run(lambda client: client.unload())


FACES = (SyncFace, AsyncFace)
