"""What requests need before they can be scheduled, LoRAs and decoded pictures: got beside the engine's thread."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from fluxengine.errors import FluxError, Internal
from fluxengine.job import Ticket
from fluxengine.lora.layers import Lora
from fluxengine.lora.library import LoraLibrary
from fluxengine.waiting.source_pictures import SourcePictures
from fluxengine.wire.request import GenerateRequest

WORKERS = 2


@dataclass(frozen=True, slots=True)
class _Started:
    """What a request waits for."""

    loras: dict[str, Future[Lora]]
    has_pictures: bool


class Preparation:
    """Used by the engine's thread, but for `check`."""

    def __init__(
        self,
        folder: Path | None,
        max_loras: int,
        max_batch: int,
        load_lora: Callable[[Path], Lora],
        wake: Callable[[], None],
    ) -> None:
        """LoRAs are files of `folder`; `wake` is called by any thread when there may be news."""
        # One thread each for torch: a pool of OpenMP workers of theirs would slow down the engine's.
        self._executor = ThreadPoolExecutor(
            WORKERS, thread_name_prefix="loras", initializer=torch.set_num_threads, initargs=(1,)
        )
        self.library = LoraLibrary(folder, max_loras, load_lora, self._executor)
        self._pictures = SourcePictures(max_batch, wake)
        self._wake = wake
        self._waiting: list[tuple[float, int, Ticket]] = []
        """A heap of those for whose LoRAs there was no room, the most urgent first."""
        self._numbers = count()
        self._started: dict[Ticket, _Started] = {}
        self._held: dict[Ticket, list[str]] = {}
        """The LoRAs that each ticket holds in memory."""

    def check(self, request: GenerateRequest) -> None:
        """Raises NotFound for a LoRA that is not here. From any thread."""
        self.library.check(_lora_names(request))

    def add(self, ticket: Ticket) -> bool:
        """Begins with a request. False if it needs nothing, and can be scheduled at once."""
        if _lora_names(ticket.request):
            heapq.heappush(self._waiting, (ticket.jobs[0].order, next(self._numbers), ticket))
            return True
        if ticket.request.rows_with_images:  # who needs no room for LoRAs waits for nobody's
            self._start(ticket, {})
            return True
        return False

    def ready(self) -> list[tuple[Ticket, FluxError | None]]:
        """Goes on, and returns those that have all they need by now, or failed."""
        news: list[tuple[Ticket, FluxError | None]] = []
        while self._waiting:
            ticket = self._waiting[0][2]
            if not ticket.ended:
                try:
                    if not self._acquire(ticket):
                        break
                except Exception as error:
                    news.append((ticket, _as_flux_error(error)))
            heapq.heappop(self._waiting)
        self._pictures.start_some()
        for ticket, started in list(self._started.items()):
            has_pictures = not started.has_pictures or self._pictures.decoded(ticket)
            if has_pictures and all(future.done() for future in started.loras.values()):
                del self._started[ticket]
                news.append((ticket, self._finish(ticket, started)))
        return news

    def forget(self, ticket: Ticket) -> None:
        """A request has ended: its LoRAs may go."""
        self._started.pop(ticket, None)
        self._pictures.forget(ticket)
        if names := self._held.pop(ticket, None):
            self.library.release(names)
        self._wake()  # somebody may wait for the room

    @property
    def waiting(self) -> int:
        """Images that are not ready yet."""
        tickets = [*(ticket for _, _, ticket in self._waiting), *self._started]
        return sum(len(ticket.jobs) for ticket in tickets if not ticket.ended)

    def close(self) -> None:
        self._pictures.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _acquire(self, ticket: Ticket) -> bool:
        """Begins with a request that has LoRAs, if there is room for them."""
        names = _lora_names(ticket.request)
        loras = self.library.acquire(names)
        if loras is None:
            return False
        self._held[ticket] = names
        self._start(ticket, dict(zip(names, loras, strict=True)))
        return True

    def _start(self, ticket: Ticket, loras: dict[str, Future[Lora]]) -> None:
        has_pictures = bool(ticket.request.rows_with_images)
        self._started[ticket] = _Started(loras, has_pictures)
        if has_pictures:
            self._pictures.add(ticket)
        for future in loras.values():
            future.add_done_callback(lambda _: self._wake())

    def _finish(self, ticket: Ticket, started: _Started) -> FluxError | None:
        try:
            pictures = self._pictures.take(ticket) if started.has_pictures else {}
            for n, row in enumerate(ticket.request.rows):
                for job in ticket.jobs_of(n):
                    job.loras = tuple((started.loras[name].result(), scale) for name, scale in row.loras)
                    job.source = pictures[row.image, row.size] if row.image else None
        except Exception as error:
            return _as_flux_error(error)
        ticket.request = ticket.request.without_files()
        return None


def _lora_names(request: GenerateRequest) -> list[str]:
    return list(dict.fromkeys(name for row in request.rows for name, _ in row.loras))


def _as_flux_error(error: BaseException) -> FluxError:
    return error if isinstance(error, FluxError) else Internal("request", f"{type(error).__name__}: {error}")
