"""Where answers are made into files and sent, so that neither ever holds up a denoising step."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("fluxengine")


class Outbox:
    """A few threads that carry out what is posted. What is posted under one key is done in the order it was posted."""

    def __init__(self, threads: int) -> None:
        self._queues: list[queue.SimpleQueue[Callable[[], None] | None]] = [queue.SimpleQueue() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._work, args=(todo,), name="outbox", daemon=True) for todo in self._queues
        ]
        for thread in self._threads:
            thread.start()

    def post(self, key: object, action: Callable[[], None]) -> None:
        self._queues[hash(key) % len(self._queues)].put(action)

    def close(self) -> None:
        """Returns when all that was posted is done."""
        for todo in self._queues:
            todo.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, todo: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (action := todo.get()) is not None:
            try:
                action()
            except Exception:
                log.exception("an answer could not be sent")
