"""What other threads hand over to the engine's: requests, cancellations, and when it is time to stop."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from fluxengine.errors import Unavailable
from fluxengine.job import Ticket
from fluxengine.waiting.room import Room


@dataclass(frozen=True, slots=True)
class HandedOver:
    """All since the last time."""

    submitted: Sequence[Ticket]
    cancelled: Sequence[Ticket]
    prepared: bool
    """Whether the preparation may have news."""
    giving_up: bool
    closing: bool


class Inbox:
    """Safe from any thread."""

    def __init__(self, room: Room) -> None:
        self._room = room
        """Guarded by `_changed`, as all that follows, but for `max_images`, which is set before others submit."""
        self._changed = threading.Condition()
        self._submitted: list[Ticket] = []
        self._cancelled: list[Ticket] = []
        self._prepared = False
        self._draining = False
        self._giving_up = False
        self._closing = False

    def submit(self, ticket: Ticket, patience_s: float) -> bool:
        """Takes a request in. False once it is closed: nobody will look at it.

        Raises Overloaded where there is no room for it, and still is none after `patience_s`; Unavailable after
        `drain`.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._room.is_full or self._closing or self._draining, patience_s)
            if self._closing:
                return False
            if self._draining:
                raise Unavailable("server", "is stopping; send the request to another")
            self._room.take(ticket)
            self._submitted.append(ticket)
            self._changed.notify_all()
            return True

    def cancel(self, ticket: Ticket) -> None:
        with self._changed:
            self._cancelled.append(ticket)
            self._changed.notify_all()

    def wake(self) -> None:
        """The preparation may have news."""
        with self._changed:
            self._prepared = True
            self._changed.notify_all()

    def drain(self) -> None:
        """Takes nothing more."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def give_up(self) -> None:
        with self._changed:
            self._giving_up = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    # ---- the engine's thread ----

    def take(self, busy: bool, wait_s: float | None) -> HandedOver:
        """What was handed over. Unless the engine is busy, waits until there is something, but at most `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: busy or self._has_news(), wait_s)
            taken = HandedOver(self._submitted, self._cancelled, self._prepared, self._giving_up, self._closing)
            self._submitted, self._cancelled, self._prepared, self._giving_up = [], [], False, False
            return taken

    def _has_news(self) -> bool:
        return bool(self._submitted or self._cancelled or self._closing or self._prepared or self._giving_up)

    def let_upload_go(self, ticket: Ticket) -> None:
        """Its pictures are encoded."""
        with self._changed:
            self._room.let_upload_go(ticket)

    def let_go(self, ticket: Ticket, images: int) -> None:
        """It has ended, and others have its room."""
        with self._changed:
            self._room.let_upload_go(ticket)
            self._room.images -= images
            self._changed.notify_all()
