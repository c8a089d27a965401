"""What requests need before they can be scheduled, LoRAs and decoded pictures: got beside the engine's thread."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from fluxengine.errors import FluxError, Internal
from fluxengine.lora import Lora
from fluxengine.lora_library import LoraLibrary
from fluxengine.pictures import Picture, decode_picture
from fluxengine.request import GenerateRequest, PromptRequest
from fluxengine.ticket import Ticket

WORKERS = 2


@dataclass(slots=True)
class _Started:
    """What is being done for one request."""

    loras: dict[str, Future[Lora]]
    pictures: dict[PromptRequest, Future[Picture]]

    def futures(self) -> list[Future[Any]]:
        return [*self.loras.values(), *self.pictures.values()]


class Preparation:
    """Used by the engine's thread, but for `check`."""

    def __init__(
        self, folder: Path | None, max_loras: int, load_lora: Callable[[Path], Lora], wake: Callable[[], None]
    ) -> None:
        """LoRAs are files of `folder`; `wake` is called by any thread when there may be news."""
        # One thread each for torch: a pool of OpenMP workers of theirs would slow down the engine's.
        self._executor = ThreadPoolExecutor(
            WORKERS, thread_name_prefix="preparation", initializer=torch.set_num_threads, initargs=(1,)
        )
        self.library = LoraLibrary(folder, max_loras, load_lora, self._executor)
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
        if not any(row.loras or row.image for row in ticket.request.rows):
            return False
        # Who needs no room for LoRAs waits for nobody.
        order = ticket.jobs[0].order if _lora_names(ticket.request) else -math.inf
        heapq.heappush(self._waiting, (order, next(self._numbers), ticket))
        return True

    def ready(self) -> list[tuple[Ticket, FluxError | None]]:
        """Goes on, and returns those that have all they need by now, or failed."""
        news: list[tuple[Ticket, FluxError | None]] = []
        while self._waiting:
            ticket = self._waiting[0][2]
            if not ticket.ended:
                try:
                    if not self._start(ticket):
                        break
                except Exception as error:
                    news.append((ticket, _as_flux_error(error)))
            heapq.heappop(self._waiting)
        for ticket, started in list(self._started.items()):
            if all(future.done() for future in started.futures()):
                del self._started[ticket]
                news.append((ticket, _finish(ticket, started)))
        return news

    def forget(self, ticket: Ticket) -> None:
        """A request has ended: its LoRAs may go."""
        self._started.pop(ticket, None)
        if names := self._held.pop(ticket, None):
            self.library.release(names)
            self._wake()  # somebody may wait for the room

    @property
    def waiting(self) -> int:
        """Images that are not ready yet."""
        tickets = [*(ticket for _, _, ticket in self._waiting), *self._started]
        return sum(len(ticket.jobs) for ticket in tickets if not ticket.ended)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self, ticket: Ticket) -> bool:
        names = _lora_names(ticket.request)
        loras = self.library.acquire(names)
        if loras is None:
            return False
        self._held[ticket] = names
        pictures = {
            row: self._executor.submit(decode_picture, row.image, row.size)
            for row in dict.fromkeys(ticket.request.rows)
            if row.image is not None
        }
        self._started[ticket] = started = _Started(dict(zip(names, loras, strict=True)), pictures)
        for future in started.futures():
            future.add_done_callback(lambda _: self._wake())
        return True


def _lora_names(request: GenerateRequest) -> list[str]:
    return list(dict.fromkeys(name for row in request.rows for name, _ in row.loras))


def _finish(ticket: Ticket, started: _Started) -> FluxError | None:
    for future in started.futures():
        error = future.exception()
        if error is not None:
            return _as_flux_error(error)
    for n, row in enumerate(ticket.request.rows):
        for job in ticket.jobs_of(n):
            job.loras = tuple((started.loras[name].result(), scale) for name, scale in row.loras)
            job.source = started.pictures[row].result() if row in started.pictures else None
    return None


def _as_flux_error(error: BaseException) -> FluxError:
    return error if isinstance(error, FluxError) else Internal("request", f"{type(error).__name__}: {error}")
