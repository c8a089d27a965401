"""The client for programs without asyncio."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
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
from fluxclient.in_flight import Calls
from fluxclient.inputs.request import Options, Request
from fluxclient.result import Event, Progress, Result, read_answer
from fluxclient.retries import Attempts
from fluxclient.statistics import Statistics, fetch_metrics, read_statistics
from fluxclient.transport.address import Address
from fluxclient.transport.interface import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FluxClient(BaseClient):
    """Draws pictures on a FLUX server; threads may share one. `AsyncFluxClient` has the same methods.

    `url` is `grpc://host:8001`, or `http://host:8000` for Triton's HTTP. `timeout` is in seconds, for each request as a
    whole, and becomes its deadline on the server; None: no limit. `retries` is how often a request is sent again that
    the server did not take: nobody answers, the connection broke, or it is full or stopping. `silence` is for how many
    seconds the server may say nothing of a request, of which it tells every 5 s, before that counts as a broken
    connection; None: without limit, for servers or proxies that do not let such events through. `metrics_url` is where
    `statistics` finds the server's metrics; by default port 8002 of the same host. `control_key` is what the server may
    want for `load` and `unload`; by default that of TRITON_CONTROL_KEY, or of a `make serve` on this machine.
    """

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
        self._transport = _transport(self._address)
        self._lock = threading.Lock()
        self._uses: set[Calls] = set()
        """All that is in flight; guarded by the lock, as is `_closed`."""

    @overload
    def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...

    @overload
    def generate(self, prompt: Prompts, **options: Unpack[Options]) -> list[Result]: ...

    def generate(self, prompt: str | Prompts, **options: Unpack[Options]) -> Result | list[Result]:
        """Draws a prompt, or several in one request, and waits for it.

        Several prompts in one request share its options and its fate: one result for each, in order, or one error.
        Raises FluxError.
        """
        request = self._request(prompt, options)
        with self._use() as calls:
            results = self._results(request, calls)
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
        shared = for_many(options)

        def attempt(prompt: str, calls: Calls) -> Result | FluxError:
            try:
                return self._results(self._request(prompt, shared), calls)[0]
            except FluxError as error:
                return error

        with self._use() as calls, ThreadPoolExecutor(concurrency, thread_name_prefix="fluxclient") as pool:
            futures: list[Future[Result | FluxError]] = []
            try:
                futures.extend(pool.submit(attempt, prompt, calls) for prompt in prompts)
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
            live = self._transport.server_live(ASK_TIMEOUT_S)
            ready = self._transport.server_ready(ASK_TIMEOUT_S)
            return Health(live, ready, self._transport.model_ready(self.model, ASK_TIMEOUT_S))
        except FluxError as error:
            return Health(live, ready, False, str(error))

    def statistics(self) -> Statistics:
        """What the server has done with the model. Raises FluxError."""
        self._check_open()
        server = self._transport.server_version(ASK_TIMEOUT_S)
        config = self._transport.model_config(self.model, ASK_TIMEOUT_S)
        return read_statistics(fetch_metrics(self.metrics_url, ASK_TIMEOUT_S), server, self.model, config)

    def load(self, parameters: Mapping[str, str] | None = None) -> None:
        """For operators: loads the model and waits until it serves; of a loaded model, only what has changed on disk.

        `parameters` are the engine's, by name, in place of those that it runs with now, and load it anew; requests in
        flight finish as they began. They last until it is unloaded. Needs a server with
        `--model-control-mode=explicit`. Raises FluxError with the server's reason; what was loaded goes on then.
        """
        self._check_open()
        config = None
        if parameters is not None:
            config = with_parameters(self._transport.model_config(self.model, ASK_TIMEOUT_S), parameters)
        self._transport.load(self.model, config, self.timeout, self._find_control_key())

    def unload(self) -> None:
        """For operators: takes the model away. Returns before those in flight have finished. Raises FluxError."""
        self._check_open()
        self._transport.unload(self.model, self.timeout, self._find_control_key())

    def close(self) -> None:
        """Closes the connection; requests in flight are cancelled and raise Cancelled."""
        with self._lock:
            self._closed = True
            uses = list(self._uses)
        for calls in uses:
            calls.cancel()
        self._transport.close()

    def __enter__(self) -> FluxClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _use(self) -> Iterator[Calls]:
        """The calls of one use of the client: closing it cancels them."""
        calls = Calls()
        with self._lock:
            self._check_open()
            self._uses.add(calls)
        try:
            yield calls
        finally:
            with self._lock:
                self._uses.discard(calls)

    def _events(self, request: Request) -> Generator[Event, None, None]:
        with self._use() as calls, closing(self._exchange(request, calls)) as items:
            for item in items:
                yield item if isinstance(item, Progress) else item[0]

    def _results(self, request: Request, calls: Calls) -> list[Result]:
        results: list[Result] = []
        for item in self._exchange(request, calls):
            if isinstance(item, list):
                results = item
        return results

    def _exchange(self, request: Request, calls: Calls) -> Generator[Progress | list[Result], None, None]:
        """One request and its responses, in as many attempts as it takes; the results come last."""
        attempts = Attempts(request, self.retries)
        while True:
            try:
                for item in self._attempt(attempts.next(), calls):
                    attempts.hears(item)
                    yield item
                return
            except FluxError as error:
                pause_s = attempts.pause_s(error)
            calls.pause(pause_s)

    def _attempt(self, request: Request, calls: Calls) -> Generator[Progress | list[Result], None, None]:
        """On a stream of its own. Cancels when left early."""
        call = calls.open(lambda: self._transport.open(self.model, request))
        if call is None:
            raise self._gave_up(request)
        results: list[Result] | None = None
        try:
            # Read on after the results: the server ends the stream, and a finished request is not cancelled.
            for outputs in call:
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
        finally:
            calls.end(call)
        yield self._settle(results, request)


def _transport(address: Address) -> Transport:
    # Each module draws in its half of tritonclient, which takes a while.
    if address.scheme == "grpc":
        from fluxclient.transport.grpc import GrpcTransport

        return GrpcTransport(address)
    from fluxclient.transport.http import HttpTransport

    return HttpTransport(address)
