"""The client for programs without asyncio."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
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
from fluxclient.wire import Connection, RpcError, failure

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Calls:
    """The calls in flight of one `generate_many`, so that all can be cancelled at once. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Any] = set()
        self._cancelled = False

    def add(self, call: Any) -> None:
        with self._lock:
            self._calls.add(call)
            cancelled = self._cancelled
        if cancelled:
            call.cancel()

    def remove(self, call: Any) -> None:
        with self._lock:
            self._calls.discard(call)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()


class FluxClient(BaseClient):
    """Draws pictures on a FLUX server; threads may share one. `AsyncFluxClient` has the same methods.

    `timeout` is in seconds, for each request as a whole, and becomes its deadline on the server; None: no limit.
    """

    def __init__(
        self, url: str = "grpc://localhost:8001", *, timeout: float | None = DEFAULT_TIMEOUT_S, model: str = "flux"
    ) -> None:
        super().__init__(url, timeout=timeout, model=model)
        self._connection = Connection(self._target, aio=False)

    @overload
    def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...

    @overload
    def generate(self, prompt: Prompts, **options: Unpack[Options]) -> list[Result]: ...

    def generate(self, prompt: str | Prompts, **options: Unpack[Options]) -> Result | list[Result]:
        """Draws a prompt, or several in one request, and waits for it.

        Several prompts in one request share its options and its fate: one result for each, in order, or one error.
        Raises FluxError.
        """
        results = self._results(self._request(prompt, options))
        return results[0] if isinstance(prompt, str) else results

    def stream(self, prompt: str, **options: Unpack[Options]) -> Generator[Event, None, None]:
        """Draws a prompt and tells of it meanwhile: Progress after each step, Preview where asked for, then the Result.

        Leaving the loop, or `close()` of what this returns, cancels the request on the server. Raises FluxError.
        """
        return self._events(self._request(prompt, options, progress=True))

    def generate_many(
        self, prompts: Iterable[str], *, concurrency: int = DEFAULT_CONCURRENCY, **options: Unpack[Options]
    ) -> list[Result | FluxError]:
        """Draws each prompt in a request of its own, at most `concurrency` at a time.

        One item for each prompt, in order: its result, or the error that it met; a failure does not concern the others.
        Being interrupted (Ctrl-C) cancels all on the server.
        """
        check_concurrency(concurrency)
        calls = _Calls()

        def attempt(prompt: str) -> Result | FluxError:
            try:
                return self._results(self._request(prompt, options), calls)[0]
            except FluxError as error:
                return error

        with ThreadPoolExecutor(concurrency, thread_name_prefix="fluxclient") as pool:
            futures: list[Future[Result | FluxError]] = []
            try:
                futures.extend(pool.submit(attempt, prompt) for prompt in prompts)
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                calls.cancel()
                raise

    def health(self) -> Health:
        """Whether the server and the model can be used; never raises because they cannot."""
        self._check_open()
        live = ready = False
        try:
            live = self._connection.ask_server_live(HEALTH_TIMEOUT_S).live
            ready = self._connection.ask_server_ready(HEALTH_TIMEOUT_S).ready
            return Health(live, ready, self._connection.ask_model_ready(self.model, HEALTH_TIMEOUT_S).ready)
        except RpcError as error:
            return Health(live, ready, False, str(failure(error, self._target, timeout_s=HEALTH_TIMEOUT_S)))

    def close(self) -> None:
        """Closes the connection; requests in flight are cancelled and raise Cancelled."""
        self._closed = True
        self._connection.channel.close()

    def __enter__(self) -> FluxClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _events(self, request: Request) -> Generator[Event, None, None]:
        with closing(self._exchange(request)) as items:
            for item in items:
                yield item if isinstance(item, Progress) else item[0]

    def _results(self, request: Request, calls: _Calls | None = None) -> list[Result]:
        results: list[Result] = []
        for item in self._exchange(request, calls):
            if isinstance(item, list):
                results = item
        return results

    def _exchange(
        self, request: Request, calls: _Calls | None = None
    ) -> Generator[Progress | list[Result], None, None]:
        """One request and its responses, on a stream of its own; the results come last. Cancels when left early."""
        call = self._connection.open_stream(self.model, request)
        if calls is not None:
            calls.add(call)
        outcome: Outcome | None = None
        try:
            # Read on after the outcome: the server ends the stream, and a finished request is not cancelled.
            for response in call:
                item = self._read(response, request)
                if isinstance(item, Progress):
                    yield item
                elif item is not None:
                    outcome = item
        except RpcError as error:
            if outcome is None:
                raise self._failure(error, request) from error
        finally:
            call.cancel()
            if calls is not None:
                calls.remove(call)
        yield self._settle(outcome, request)
