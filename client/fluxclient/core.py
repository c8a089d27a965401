"""What a client does, written once for both: it neither waits nor sends, which are its transport's and its driver's.

Coroutines, because those can be carried out in two ways. `AsyncFluxClient` awaits them in its event loop. `FluxClient`
runs them to their end in the thread of its caller: its transport blocks, and so they never stop in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import cast

from fluxclient.errors import Cancelled, FluxError, InvalidArgument, ServerError
from fluxclient.health import Health
from fluxclient.in_flight import InFlight, Use
from fluxclient.inputs.options import Options
from fluxclient.inputs.request import Request, build_request, seconds
from fluxclient.inputs.source_image import image_file
from fluxclient.result import Event, Progress, Result, read_answer
from fluxclient.retries import Attempts
from fluxclient.statistics import Statistics, read_statistics
from fluxclient.transport.address import Address
from fluxclient.transport.control_key import find_control_key
from fluxclient.transport.interface import ModelConfig, Transport

DEFAULT_URL = "grpc://localhost:8001"
DEFAULT_MODEL = "flux"
DEFAULT_TIMEOUT_S = 120.0
DEFAULT_CONCURRENCY = 8
DEFAULT_RETRIES = 2
DEFAULT_SILENCE_S = 15.0
"""Three signs of life that the model sends every 5 s."""
ASK_TIMEOUT_S = 5.0
"""For what a server answers at once: health, statistics."""

Prompts = list[str] | tuple[str, ...]
"""Prompts that go in one request; a `str` is one prompt, not a sequence of them."""


class ClientCore(ABC):
    """Settings, and the life of a request; how they are carried out is the subclasses'."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        model: str = DEFAULT_MODEL,
        retries: int = DEFAULT_RETRIES,
        silence: float | None = DEFAULT_SILENCE_S,
        metrics_url: str | None = None,
        control_key: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        """`url` is `grpc://host:8001`, or `http://host:8000` for Triton's HTTP. `timeout` is in seconds, for each
        request as a whole, and becomes its deadline on the server; None: no limit. `retries` is how often a request is
        sent again that the server did not take: nobody answers, the connection broke, or it is full or stopping.
        `silence` is for how many seconds the server may say nothing of a request, of which it tells every 5 s, before
        that counts as a broken connection; None: without limit, for servers or proxies that do not let such events
        through.
        `metrics_url` is where `statistics` finds the server's metrics; by default port 8002 of the same host.
        `control_key` is what the server may want for `load` and `unload`; by default that of TRITON_CONTROL_KEY, or of
        a `make serve` on this machine. `transport` takes the place of all connections: a `MockTransport`, for tests.

        Raises InvalidArgument, and ValueError for a `url` that is no address.
        """
        if retries < 0:
            raise InvalidArgument(f"is {retries}; must be 0 or more", field="retries")
        self.url = url
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self.silence = seconds("silence", silence)
        self._address = Address(url)
        self.metrics_url = metrics_url or self._address.metrics_url
        self._control_key = control_key
        self._in_flight = InFlight()
        self._made = transport
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """What the driver does when the client is made."""

    @property
    @abstractmethod
    def _transport(self) -> Transport: ...

    @abstractmethod
    async def _pause(self, seconds: float, use: Use) -> None:
        """Ends early when the use is cancelled."""

    async def _generate(self, prompt: str | Prompts, options: Options) -> Result | list[Result]:
        request = self._request(prompt, options)
        with self._in_flight.use() as use:
            results = await self._results(request, use)
        return results[0] if isinstance(prompt, str) else results

    def _stream(self, prompt: str, options: Options) -> AsyncGenerator[Event, None]:
        return self._events(self._request(prompt, options, progress=True))

    async def _one_of_many(self, prompt: str, shared: Options, use: Use) -> Result | FluxError:
        try:
            return (await self._results(self._request(prompt, shared), use))[0]
        except FluxError as error:
            return error

    async def _health(self) -> Health:
        self._in_flight.check_open()
        live = ready = False
        try:
            live = await self._transport.server_live(ASK_TIMEOUT_S)
            ready = await self._transport.server_ready(ASK_TIMEOUT_S)
            return Health(live, ready, await self._transport.model_ready(self.model, ASK_TIMEOUT_S))
        except FluxError as error:
            return Health(live, ready, False, str(error))

    async def _statistics(self) -> Statistics:
        self._in_flight.check_open()
        server = await self._transport.server_version(ASK_TIMEOUT_S)
        config = await self._transport.model_config(self.model, ASK_TIMEOUT_S)
        metrics = await self._transport.metrics(self.metrics_url, ASK_TIMEOUT_S)
        return read_statistics(metrics, server, self.model, config)

    async def _load(self, parameters: Mapping[str, str] | None) -> None:
        self._in_flight.check_open()
        config = None
        if parameters is not None:
            config = with_parameters(await self._transport.model_config(self.model, ASK_TIMEOUT_S), parameters)
        await self._transport.load(self.model, config, self.timeout, self._find_control_key())

    async def _unload(self) -> None:
        self._in_flight.check_open()
        await self._transport.unload(self.model, self.timeout, self._find_control_key())

    async def _close(self) -> None:
        self._in_flight.close()
        if self._made is not None:
            await self._made.close()

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        with self._in_flight.use() as use:
            async with aclosing(self._exchange(request, use)) as items:
                async for item in items:
                    yield item if isinstance(item, Progress) else item[0]

    async def _results(self, request: Request, use: Use) -> list[Result]:
        results: list[Result] = []
        async with aclosing(self._exchange(request, use)) as items:
            async for item in items:
                if isinstance(item, list):
                    results = item
        return results

    async def _exchange(self, request: Request, use: Use) -> AsyncGenerator[Progress | list[Result], None]:
        """One request and its responses, in as many attempts as it takes; the results come last."""
        attempts = Attempts(request, self.retries)
        while True:
            try:
                async with aclosing(self._attempt(attempts.next(), use)) as items:
                    async for item in items:
                        attempts.hears(item)
                        yield item
                return
            except FluxError as error:
                pause_s = attempts.pause_s(error)
            await self._pause(pause_s, use)

    async def _attempt(self, request: Request, use: Use) -> AsyncGenerator[Progress | list[Result], None]:
        """On a stream of its own. Cancels when left early."""
        call = use.open(lambda: self._transport.open(self.model, request))
        if call is None:
            raise _gave_up(request)
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
            if results is None and self._in_flight.closed:  # closing it breaks connections too
                raise _gave_up(request) from error
            if results is None:
                raise
        finally:
            use.end(call)
        if results is None and self._in_flight.closed:
            raise _gave_up(request)
        if results is None:
            problem = "the server ended the stream without a final answer"
            raise ServerError(problem, field="answer", request_id=request.id)
        yield results

    def _request(self, prompt: str | Prompts, options: Options, *, progress: bool = False) -> Request:
        self._in_flight.check_open()
        prompts = tuple(prompt) if isinstance(prompt, list | tuple) else (prompt,)
        given = cast(Mapping[str, object], options)
        return build_request(prompts, given, timeout_s=self.timeout, silence_s=self.silence, progress=progress)

    def _find_control_key(self) -> str | None:
        """Looked up each time: a server that is started again has another."""
        return self._control_key or find_control_key(self._address)


def check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise InvalidArgument(f"is {concurrency}; must be at least 1", field="concurrency")


def for_many(options: Options) -> Options:
    """The options of many requests: their picture is read once, and never by two threads together."""
    if "image" in options:
        with suppress(InvalidArgument):  # each of the requests meets that error itself
            return {**options, "image": image_file(options["image"])}
    return options


def with_parameters(config: ModelConfig, parameters: Mapping[str, str]) -> ModelConfig:
    """A model's configuration with some of the engine's parameters replaced."""
    changed = {name: {"string_value": value} for name, value in parameters.items()}
    return {**config, "parameters": {**config.get("parameters", {}), **changed}}


def _gave_up(request: Request) -> Cancelled:
    return Cancelled("the client was closed meanwhile", field="client", request_id=request.id)
