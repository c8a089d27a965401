"""What the servers of these tests have in common: a model that does what the test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol


class Context(Protocol):
    """The part of grpc.ServicerContext that behaviours use."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Has it called when the request ends, by its caller or by itself; False if it has ended already."""
        ...


Behaviour = Callable[[Any, Any], Iterator[Any]]
"""From a ModelInferRequest and its Context, the responses: each a ModelStreamInferResponse."""


class FakeModel:
    """Each request is answered by `behaviour(request, context)`; what became of it is kept for the test."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = lambda request, context: iter(())
        self.server_ready = True
        self.model_ready = True
        self.refusal = ""
        """What the server says to being asked for the model's configuration, to load it or to unload it."""
        self.config: dict[str, Any] = {"name": "flux", "instance_group": [{"name": "flux", "count": 1}]}
        self.loads: list[tuple[str, str | None]] = []
        """Each model with the configuration that it was to be loaded with."""
        self.unloads: list[str] = []
        self.control_keys: list[str | None] = []
        """That of each load and unload."""
        self.requests: list[Any] = []
        self.cancelled = threading.Event()
        """Some request was cancelled by its client before its stream had ended."""
        self.ended = 0
        """Streams that ran to their end."""
        self.most_at_once = 0
        self.at_once = 0
        self._lock = threading.Lock()

    def answer(self, request: Any, context: Context) -> Iterator[Any]:
        with self._lock:
            self.requests.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield from self.behaviour(request, context)
        finally:
            with self._lock:
                self.at_once -= 1

    def count_ended(self) -> None:
        with self._lock:
            self.ended += 1
