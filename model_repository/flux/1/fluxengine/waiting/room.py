"""How much may be in flight: images, and the host's memory that uploaded pictures take until they are encoded."""

from __future__ import annotations

from fluxengine.errors import Overloaded
from fluxengine.job import Ticket


class Room:
    """Changed under a lock of its user; what it holds at the moment may be read without."""

    def __init__(self, max_images: int, max_upload_mb: int) -> None:
        self.max_images = max_images
        self.images = 0
        self.upload_bytes = 0
        self._max_upload_mb = max_upload_mb

    @property
    def is_full(self) -> bool:
        return self.images >= self.max_images

    def take(self, ticket: Ticket) -> None:
        """Raises Overloaded where there is none. A request that finds nobody else may be of any size."""
        if self.is_full:
            holds = f"holds {self.images} images, max_in_flight is {self.max_images}"
            raise Overloaded("queue", f"{holds}; try again later")
        others = self.upload_bytes
        if ticket.upload_bytes and others and others + ticket.upload_bytes > self._max_upload_mb << 20:
            holds = f"comes to {others >> 20} MB of others, max_upload_mb is {self._max_upload_mb}"
            raise Overloaded("image", f"{holds}; try again later")
        self.upload_bytes += ticket.upload_bytes
        self.images += len(ticket.jobs)

    def let_upload_go(self, ticket: Ticket) -> None:
        """Its pictures are encoded, or are not wanted any more."""
        self.upload_bytes -= ticket.upload_bytes
        ticket.upload_bytes = 0
