"""What a sync client has in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fluxclient.transport.interface import Call


class Calls:
    """Those of one use of a client, so that all can be cancelled at once, also while the next attempt is waited for.

    Threads share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._cancelled = threading.Event()

    def open(self, make: Callable[[], Call]) -> Call | None:
        """A new call, to be handed to `end`; None if all have been cancelled."""
        with self._lock:
            if self._cancelled.is_set():
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
            self._cancelled.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def pause(self, seconds: float) -> None:
        """Returns early when all are cancelled."""
        self._cancelled.wait(seconds)
