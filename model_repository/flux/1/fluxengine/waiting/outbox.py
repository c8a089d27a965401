"""Where answers are made into files and sent, so that neither ever holds up a denoising step."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger("fluxengine")

Action = Callable[[], None]


class Outbox:
    """A few threads that carry out what is posted, whoever is free. Of one key, one thing is done at a time.

    News of a key are worth nothing once there are newer ones. What ends a request goes before all news, but for one
    thread, where there are several: an end may have to be tried again and again, and others want a sign of life.
    """

    def __init__(self, threads: int) -> None:
        self._changed = threading.Condition()
        self._ends: deque[tuple[object, Action]] = deque()
        self._news: dict[object, Action] = {}
        """The newest of each key, in the order in which the keys came."""
        self._busy: set[object] = set()
        """Keys of what is being done."""
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(n > 0,), name="outbox", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def post_news(self, key: object, action: Action) -> None:
        """Takes the place of what was posted so before and has not begun."""
        with self._changed:
            self._news[key] = action
            self._changed.notify()

    def post_end(self, key: object, action: Action) -> None:
        """The newest news of the key go out first, if they have not yet."""
        with self._changed:
            self._ends.append((key, action))
            self._changed.notify()

    def close(self) -> None:
        """Returns when all that was posted is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, news_first: bool) -> None:
        while (taken := self._take(news_first)) is not None:
            key, actions = taken
            for action in actions:
                try:
                    action()
                except Exception:
                    log.exception("an answer could not be sent")
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()
            del taken, key, actions, action  # or the pictures of the last answer stay until the next

    def _take(self, news_first: bool) -> tuple[object, list[Action]] | None:
        """The next key, and what there is to do for it. None at the end."""
        with self._changed:
            while True:
                taken = (
                    (self._take_news() or self._take_end()) if news_first else (self._take_end() or self._take_news())
                )
                if taken is not None:
                    self._busy.add(taken[0])
                    return taken
                if self._closing and not self._ends and not self._news:
                    return None
                self._changed.wait()

    def _take_end(self) -> tuple[object, list[Action]] | None:
        for n, (key, action) in enumerate(self._ends):  # at most as many keys are busy as there are threads
            if key not in self._busy:
                del self._ends[n]
                news = self._news.pop(key, None)
                return key, [action] if news is None else [news, action]
        return None

    def _take_news(self) -> tuple[object, list[Action]] | None:
        for key in self._news:
            if key not in self._busy:
                return key, [self._news.pop(key)]
        return None
