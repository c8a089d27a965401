"""What the clients need of gRPC and of HTTP, and what each of the two gives them.

All raise FluxError: what the server says, or that it could not be reached.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from fluxclient.inputs.request import Request
from fluxclient.result import Outputs

ModelConfig = dict[str, Any]
"""A model's configuration, as Triton's JSON has it."""


class Call(Protocol):
    """One request in flight."""

    def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        """Its responses, to their end. Whoever leaves it before that calls `cancel`."""
        ...

    def cancel(self) -> None:
        """Cancels the request on the server; nothing happens once it has ended. Of a blocking transport, from any
        thread."""
        ...


class Transport(Protocol):
    """One that blocks is for threads, which may share it: its coroutines never wait for an event loop, so that
    `FluxClient` can run them to their end. Any other is for one event loop, in which it is made."""

    def open(self, model: str, request: Request) -> Call: ...

    async def server_live(self, timeout_s: float) -> bool: ...

    async def server_ready(self, timeout_s: float) -> bool: ...

    async def model_ready(self, model: str, timeout_s: float) -> bool: ...

    async def server_version(self, timeout_s: float) -> str: ...

    async def model_config(self, model: str, timeout_s: float) -> ModelConfig: ...

    async def metrics(self, url: str, timeout_s: float) -> str:
        """In Prometheus' text format."""
        ...

    async def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None: ...

    async def unload(self, model: str, timeout_s: float | None, key: str | None) -> None: ...

    async def close(self) -> None: ...
