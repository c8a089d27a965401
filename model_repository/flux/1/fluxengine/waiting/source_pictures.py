"""The pictures that image to image requests start from: decoded when their turn comes near."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

from fluxengine.job import Ticket
from fluxengine.size import Size
from fluxengine.wire.picture_files import Picture, decode_picture

WORKERS = 2
"""A file of the largest size takes hundreds of megabytes while it is decoded."""

Decoding = dict[tuple[bytes, Size], Future[Picture]]
"""By the file and the size that it is to have."""


class SourcePictures:
    """Used by the engine's thread. Files are small and pictures are not, so few wait for their turn decoded.

    Of each picture size so many images as a batch has are decoded ahead, and whoever is more urgent than one of them.
    """

    def __init__(self, max_batch: int, wake: Callable[[], None]) -> None:
        """`wake` is called by any thread when there may be news."""
        self._max_batch = max_batch
        self._wake = wake
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="pictures")
        self._numbers = count()
        self._lines: dict[Size, list[tuple[float, int, Ticket]]] = {}
        """Heaps of those to come, the most urgent first."""
        self._ahead: dict[Size, list[Ticket]] = {}
        """Those whose pictures are being decoded, or wait for their first step."""
        self._decoding: dict[Ticket, Decoding] = {}

    def add(self, ticket: Ticket) -> None:
        size = ticket.request.rows_with_images[0].size
        heapq.heappush(self._lines.setdefault(size, []), (ticket.jobs[0].order, next(self._numbers), ticket))

    def start_some(self) -> None:
        """To be called when requests have come, gone, or had their first step."""
        for size, line in list(self._lines.items()):
            ahead = [ticket for ticket in self._ahead.get(size, ()) if _waits(ticket)]
            while line and (
                sum(len(ticket.jobs) for ticket in ahead) < self._max_batch
                or line[0][0] < max(ticket.jobs[0].order for ticket in ahead)
            ):
                ticket = heapq.heappop(line)[2]
                if not ticket.ended:
                    self._decode(ticket)
                    ahead.append(ticket)
            self._ahead[size] = ahead
            if not line and not ahead:
                del self._lines[size], self._ahead[size]

    def decoded(self, ticket: Ticket) -> bool:
        """Whether `take` has something to give."""
        return ticket in self._decoding and all(future.done() for future in self._decoding[ticket].values())

    def take(self, ticket: Ticket) -> dict[tuple[bytes, Size], Picture]:
        """The decoded pictures. Raises what went wrong, InvalidArgument for a broken file."""
        return {key: future.result() for key, future in self._decoding.pop(ticket).items()}

    def forget(self, ticket: Ticket) -> None:
        """A request has ended: what has not begun for it never will."""
        for future in self._decoding.pop(ticket, {}).values():
            future.cancel()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _decode(self, ticket: Ticket) -> None:
        keys = {(row.image, row.size): None for row in ticket.request.rows_with_images}
        self._decoding[ticket] = decoding = {
            (file, size): self._executor.submit(decode_picture, file, size) for file, size in keys if file
        }
        for future in decoding.values():
            future.add_done_callback(lambda _: self._wake())


def _waits(ticket: Ticket) -> bool:
    return not ticket.ended and not all(job.encoded for job in ticket.jobs)
