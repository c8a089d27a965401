"""How requests travel: what the clients need of gRPC and of HTTP, and what each of the two modules gives them.

All raise FluxError: what the server says, or that it could not be reached.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Protocol

from fluxclient.inputs.request import Array, Request

Outputs = Mapping[str, Array]
"""One response, by output name; each array begins with a dimension for the prompts of the request."""

ModelConfig = dict[str, Any]
"""A model's configuration, as Triton's JSON has it."""


class Call(Protocol):
    """One request in flight: its responses, to their end."""

    def __iter__(self) -> Iterator[Outputs]: ...

    def cancel(self) -> None:
        """Cancels the request on the server, from any thread; nothing happens once it has ended."""
        ...


class Transport(Protocol):
    """Threads may share one."""

    def open(self, model: str, request: Request) -> Call: ...

    def server_live(self, timeout_s: float) -> bool: ...

    def server_ready(self, timeout_s: float) -> bool: ...

    def model_ready(self, model: str, timeout_s: float) -> bool: ...

    def server_version(self, timeout_s: float) -> str: ...

    def model_config(self, model: str, timeout_s: float) -> ModelConfig: ...

    def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None: ...

    def unload(self, model: str, timeout_s: float | None, key: str | None) -> None: ...

    def close(self) -> None: ...


class AsyncCall(Protocol):
    """As Call, for one task. Closing the generator that iterating it makes cancels as well."""

    def __aiter__(self) -> AsyncGenerator[Outputs, None]: ...

    def cancel(self) -> None: ...


class AsyncTransport(Protocol):
    """As Transport, for one event loop, in which it is made."""

    def open(self, model: str, request: Request) -> AsyncCall: ...

    async def server_live(self, timeout_s: float) -> bool: ...

    async def server_ready(self, timeout_s: float) -> bool: ...

    async def model_ready(self, model: str, timeout_s: float) -> bool: ...

    async def server_version(self, timeout_s: float) -> str: ...

    async def model_config(self, model: str, timeout_s: float) -> ModelConfig: ...

    async def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None: ...

    async def unload(self, model: str, timeout_s: float | None, key: str | None) -> None: ...

    async def close(self) -> None: ...
