"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from fluxclient.base import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT_S,
    HEALTH_TIMEOUT_S,
    BaseClient,
    Health,
    Outcome,
    Prompts,
    check_concurrency,
)
from fluxclient.errors import FluxError
from fluxclient.request import Options, Request
from fluxclient.result import Event, Progress, Result
from fluxclient.wire import END_OF_STREAM, Connection, RpcError, failure

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncFluxClient(BaseClient):
    """Draws pictures on a FLUX server; one is enough for hundreds of tasks of one event loop.

    `timeout` is in seconds, for each request as a whole, and becomes its deadline on the server; None: no limit.
    """

    def __init__(
        self, url: str = "grpc://localhost:8001", *, timeout: float | None = DEFAULT_TIMEOUT_S, model: str = "flux"
    ) -> None:
        super().__init__(url, timeout=timeout, model=model)
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[Any] = set()
        """Those in flight: closing the channel does not end them in every release of gRPC."""

    @overload
    async def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...

    @overload
    async def generate(self, prompt: Prompts, **options: Unpack[Options]) -> list[Result]: ...

    async def generate(self, prompt: str | Prompts, **options: Unpack[Options]) -> Result | list[Result]:
        """Draws a prompt, or several in one request, and waits for it.

        Several prompts in one request share its options and its fate: one result for each, in order, or one error.
        Cancelling the task cancels the request on the server. Raises FluxError.
        """
        results = await self._results(self._request(prompt, options))
        return results[0] if isinstance(prompt, str) else results

    def stream(self, prompt: str, **options: Unpack[Options]) -> AsyncGenerator[Event, None]:
        """Draws a prompt and tells of it meanwhile: Progress after each step, Preview where asked for, then the Result.

        Leaving the loop, `aclose()` of what this returns, or cancelling the task cancels the request on the server.
        Raises FluxError.
        """
        return self._events(self._request(prompt, options, progress=True))

    async def generate_many(
        self, prompts: Iterable[str], *, concurrency: int = DEFAULT_CONCURRENCY, **options: Unpack[Options]
    ) -> list[Result | FluxError]:
        """Draws each prompt in a request of its own, at most `concurrency` at a time.

        One item for each prompt, in order: its result, or the error that it met; a failure does not concern the others.
        Cancelling the task cancels all on the server.
        """
        check_concurrency(concurrency)
        waiting = list(prompts)
        answers: dict[int, Result | FluxError] = {}
        numbered = iter(enumerate(waiting))

        async def work() -> None:
            for index, prompt in numbered:
                try:
                    answers[index] = (await self._results(self._request(prompt, options)))[0]
                except FluxError as error:
                    answers[index] = error

        workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(waiting)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [answers[index] for index in range(len(waiting))]

    async def health(self) -> Health:
        """Whether the server and the model can be used; never raises because they cannot."""
        self._check_open()
        connection = self._connect()
        live = ready = False
        try:
            live = (await connection.ask_server_live(HEALTH_TIMEOUT_S)).live
            ready = (await connection.ask_server_ready(HEALTH_TIMEOUT_S)).ready
            return Health(live, ready, (await connection.ask_model_ready(self.model, HEALTH_TIMEOUT_S)).ready)
        except RpcError as error:
            return Health(live, ready, False, str(failure(error, self._target, timeout_s=HEALTH_TIMEOUT_S)))

    async def close(self) -> None:
        """Closes the connection; requests in flight are cancelled and raise Cancelled."""
        self._closed = True
        for call in list(self._calls):
            call.cancel()
        if self._connection is not None:
            await self._connection.channel.close()

    async def __aenter__(self) -> AsyncFluxClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connect(self) -> Connection:
        """gRPC ties a channel to an event loop, so it is made in the first that uses the client."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            self._connection, self._loop = Connection(self._target, aio=True), loop
        if self._loop is not loop:
            raise RuntimeError("this client belongs to another event loop; make one for each")
        return self._connection

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        async with aclosing(self._exchange(request)) as items:
            async for item in items:
                yield item if isinstance(item, Progress) else item[0]

    async def _results(self, request: Request) -> list[Result]:
        results: list[Result] = []
        async for item in self._exchange(request):
            if isinstance(item, list):
                results = item
        return results

    async def _exchange(self, request: Request) -> AsyncGenerator[Progress | list[Result], None]:
        """One request and its responses, on a stream of its own; the results come last. Cancels when left early."""
        call = self._connect().open_stream(self.model, request)
        self._calls.add(call)
        outcome: Outcome | None = None
        try:
            # Read on after the outcome: the server ends the stream, and a finished request is not cancelled.
            while (response := await call.read()) is not END_OF_STREAM:
                item = self._read(response, request)
                if isinstance(item, Progress):
                    yield item
                elif item is not None:
                    outcome = item
        except RpcError as error:
            if outcome is None:
                raise self._failure(error, request) from error
        except asyncio.CancelledError:
            if self._closed:  # gRPC reports its own cancelling of the call in the same way as that of the task
                raise self._gave_up(request) from None
            raise
        finally:
            call.cancel()
            self._calls.discard(call)
        yield self._settle(outcome, request)
