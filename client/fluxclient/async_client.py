"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, overload

from fluxclient.core import (
    ASK_TIMEOUT_S,
    DEFAULT_CONCURRENCY,
    DEFAULT_RETRIES,
    DEFAULT_SILENCE_S,
    DEFAULT_TIMEOUT_S,
    BaseClient,
    Health,
    Prompts,
    check_concurrency,
    for_many,
    with_parameters,
)
from fluxclient.errors import FluxError
from fluxclient.inputs.request import Options, Request
from fluxclient.result import Event, Progress, Result, read_answer
from fluxclient.retries import Attempts
from fluxclient.statistics import Statistics, fetch_metrics, read_statistics
from fluxclient.transport.address import Address
from fluxclient.transport.interface import AsyncCall, AsyncTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncFluxClient(BaseClient):
    """Draws pictures on a FLUX server; one is enough for hundreds of tasks of one event loop. See `FluxClient`."""

    def __init__(
        self,
        url: str = "grpc://localhost:8001",
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        model: str = "flux",
        retries: int = DEFAULT_RETRIES,
        silence: float | None = DEFAULT_SILENCE_S,
        metrics_url: str | None = None,
        control_key: str | None = None,
    ) -> None:
        super().__init__(
            url,
            timeout=timeout,
            model=model,
            retries=retries,
            silence=silence,
            metrics_url=metrics_url,
            control_key=control_key,
        )
        self._made: AsyncTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._calls: set[AsyncCall] = set()
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
        shared = for_many(options)
        waiting = list(prompts)
        answers: dict[int, Result | FluxError] = {}
        numbered = iter(enumerate(waiting))

        async def work() -> None:
            for index, prompt in numbered:
                try:
                    answers[index] = (await self._results(self._request(prompt, shared)))[0]
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
        live = ready = False
        try:
            live = await self._transport.server_live(ASK_TIMEOUT_S)
            ready = await self._transport.server_ready(ASK_TIMEOUT_S)
            return Health(live, ready, await self._transport.model_ready(self.model, ASK_TIMEOUT_S))
        except FluxError as error:
            return Health(live, ready, False, str(error))

    async def statistics(self) -> Statistics:
        """What the server has done with the model. Raises FluxError."""
        self._check_open()
        server = await self._transport.server_version(ASK_TIMEOUT_S)
        config = await self._transport.model_config(self.model, ASK_TIMEOUT_S)
        metrics = await asyncio.to_thread(fetch_metrics, self.metrics_url, ASK_TIMEOUT_S)
        return read_statistics(metrics, server, self.model, config)

    async def load(self, parameters: Mapping[str, str] | None = None) -> None:
        """For operators: loads the model and waits until it serves; of a loaded model, only what has changed on disk.

        `parameters` are the engine's, by name, in place of those that it runs with now, and load it anew; requests in
        flight finish as they began. They last until it is unloaded. Needs a server with
        `--model-control-mode=explicit`. Raises FluxError with the server's reason; what was loaded goes on then.
        """
        self._check_open()
        config = None
        if parameters is not None:
            config = with_parameters(await self._transport.model_config(self.model, ASK_TIMEOUT_S), parameters)
        await self._transport.load(self.model, config, self.timeout, self._find_control_key())

    async def unload(self) -> None:
        """For operators: takes the model away. Returns before those in flight have finished. Raises FluxError."""
        self._check_open()
        await self._transport.unload(self.model, self.timeout, self._find_control_key())

    async def close(self) -> None:
        """Closes the connection; requests in flight are cancelled and raise Cancelled."""
        self._closed = True
        self._closing.set()
        for call in list(self._calls):
            call.cancel()
        if self._made is not None:
            await self._made.close()

    async def __aenter__(self) -> AsyncFluxClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _transport(self) -> AsyncTransport:
        """Tied to an event loop, so it is made in the first that uses the client."""
        loop = asyncio.get_running_loop()
        if self._made is None:
            self._made, self._loop = _transport(self._address), loop
        if self._loop is not loop:
            raise RuntimeError("this client belongs to another event loop; make one for each")
        return self._made

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        async with aclosing(self._exchange(request)) as items:
            async for item in items:
                yield item if isinstance(item, Progress) else item[0]

    async def _results(self, request: Request) -> list[Result]:
        results: list[Result] = []
        async with aclosing(self._exchange(request)) as items:
            async for item in items:
                if isinstance(item, list):
                    results = item
        return results

    async def _exchange(self, request: Request) -> AsyncGenerator[Progress | list[Result], None]:
        """One request and its responses, in as many attempts as it takes; the results come last."""
        attempts = Attempts(request, self.retries)
        while True:
            try:
                async with aclosing(self._attempt(attempts.next())) as items:
                    async for item in items:
                        attempts.hears(item)
                        yield item
                return
            except FluxError as error:
                pause_s = attempts.pause_s(error)
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        """Ends early when the client is closed."""
        with suppress(asyncio.TimeoutError):  # another class than TimeoutError in Python 3.10
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def _attempt(self, request: Request) -> AsyncGenerator[Progress | list[Result], None]:
        """On a stream of its own. Cancels when left early."""
        if self._closed:
            raise self._gave_up(request)
        call = self._transport.open(self.model, request)
        self._calls.add(call)
        results: list[Result] | None = None
        try:
            # Read on after the results: the server ends the stream, and a finished request is not cancelled.
            async with aclosing(call.__aiter__()) as responses:
                async for outputs in responses:
                    item = read_answer(outputs, request)
                    if isinstance(item, Progress):
                        yield item
                    else:
                        results = item
        except FluxError as error:
            if results is None and self._closed:  # closing it breaks connections too
                raise self._gave_up(request) from error
            if results is None:
                raise
        except asyncio.CancelledError:
            if self._closed:  # gRPC reports its own cancelling of the call in the same way as that of the task
                raise self._gave_up(request) from None
            raise
        finally:
            call.cancel()
            self._calls.discard(call)
        yield self._settle(results, request)


def _transport(address: Address) -> AsyncTransport:
    # Each module draws in its half of tritonclient, which takes a while.
    if address.scheme == "grpc":
        from fluxclient.transport.grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(address)
    from fluxclient.transport.http import AsyncHttpTransport

    return AsyncHttpTransport(address)
