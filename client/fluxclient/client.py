"""The client for programs without asyncio."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from fluxclient.core import DEFAULT_CONCURRENCY, ClientCore, Prompts, check_concurrency, for_many
from fluxclient.errors import FluxError
from fluxclient.health import Health
from fluxclient.in_flight import Use
from fluxclient.inputs.options import Options
from fluxclient.result import Event, Result
from fluxclient.statistics import Statistics
from fluxclient.transport.connect import connect
from fluxclient.transport.interface import Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class FluxClient(ClientCore):
    """Draws pictures on a FLUX server; threads may share one. `AsyncFluxClient` has the same methods."""

    @overload
    def generate(self, prompt: str, **options: Unpack[Options]) -> Result: ...

    @overload
    def generate(self, prompt: Prompts, **options: Unpack[Options]) -> list[Result]: ...

    def generate(self, prompt: str | Prompts, **options: Unpack[Options]) -> Result | list[Result]:
        """Draws a prompt, or several in one request, and waits for it.

        Several prompts in one request share its options and its fate: one result for each, in order, or one error.
        Raises FluxError.
        """
        return _finish(self._generate(prompt, options))

    def stream(self, prompt: str, **options: Unpack[Options]) -> Generator[Event, None, None]:
        """Draws a prompt and tells of it meanwhile: Progress after each step, Preview where asked for, then the Result.

        Leaving the loop, or `close()` of what this returns, cancels the request on the server. Raises FluxError.
        """
        return _each(self._stream(prompt, options))

    def generate_many(
        self, prompts: Iterable[str], *, concurrency: int = DEFAULT_CONCURRENCY, **options: Unpack[Options]
    ) -> list[Result | FluxError]:
        """Draws each prompt in a request of its own, at most `concurrency` at a time.

        One item for each prompt, in order: its result, or the error that it met; a failure does not concern the others.
        Being interrupted (Ctrl-C) cancels all on the server.
        """
        check_concurrency(concurrency)
        shared = for_many(options)

        def draw(prompt: str) -> Result | FluxError:
            return _finish(self._one_of_many(prompt, shared, use))

        with self._in_flight.use() as use, ThreadPoolExecutor(concurrency, thread_name_prefix="fluxclient") as pool:
            futures: list[Future[Result | FluxError]] = []
            try:
                futures.extend(pool.submit(draw, prompt) for prompt in prompts)
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                use.cancel()
                raise

    def health(self) -> Health:
        """Whether the server and the model can be used; never raises because they cannot."""
        return _finish(self._health())

    def statistics(self) -> Statistics:
        """What the server has done with the model. Raises FluxError."""
        return _finish(self._statistics())

    def load(self, parameters: Mapping[str, str] | None = None) -> None:
        """For operators: loads the model and waits until it serves; of a loaded model, only what has changed on disk.

        `parameters` are the engine's, by name, in place of those that it runs with now, and load it anew; requests in
        flight finish as they began. They last until it is unloaded. Needs a server with
        `--model-control-mode=explicit`. Raises FluxError with the server's reason; what was loaded goes on then.
        """
        _finish(self._load(parameters))

    def unload(self) -> None:
        """For operators: takes the model away. Returns before those in flight have finished. Raises FluxError."""
        _finish(self._unload())

    def close(self) -> None:
        """Closes the connection; requests in flight are cancelled and raise Cancelled."""
        _finish(self._close())

    def __enter__(self) -> FluxClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        if self._made is None:
            self._made = connect(self._address, blocking=True)

    @property
    def _transport(self) -> Transport:
        return cast(Transport, self._made)  # from the beginning on

    async def _pause(self, seconds: float, use: Use) -> None:
        use.cancelled.wait(seconds)


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns. It runs in this thread, without an event loop: all that it awaits blocks."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    coroutine.close()
    raise TypeError("this transport waits for an event loop; it is for AsyncFluxClient")


@contextmanager
def _apart_from_loops() -> Iterator[None]:
    """Asynchronous generators that begin in it belong to no event loop of this thread, whose end would be theirs."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _each(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    try:
        while True:
            try:
                with _apart_from_loops():
                    item = _finish(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        _finish(items.aclose())
