"""What a client has in flight, so that closing it ends all of it. Threads share both classes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fluxclient.transport.interface import Call


class Use:
    """The calls of one use of a client: all can be cancelled at once, also while the next attempt is waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self.cancelled = threading.Event()

    def open(self, make: Callable[[], Call]) -> Call | None:
        """A new call, to be handed to `end`; None if all have been cancelled."""
        with self._lock:
            if self.cancelled.is_set():
                return None
            call = make()
            self._calls.add(call)
            return call

    def end(self, call: Call) -> None:
        """Cancels the call unless it has run to its end."""
        call.cancel()
        with self._lock:
            self._calls.discard(call)

    def cancel(self) -> None:
        with self._lock:
            self.cancelled.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()


class InFlight:
    """The uses of one client, until it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: set[Use] = set()
        self.closed = False

    @contextmanager
    def use(self) -> Iterator[Use]:
        """Raises RuntimeError once the client is closed."""
        use = Use()
        with self._lock:
            self.check_open()
            self._uses.add(use)
        try:
            yield use
        finally:
            with self._lock:
                self._uses.discard(use)

    def check_open(self) -> None:
        if self.closed:
            raise RuntimeError("this client is closed")

    def close(self) -> None:
        """Cancels all uses."""
        with self._lock:
            self.closed = True
            uses = list(self._uses)
        for use in uses:
            use.cancel()
