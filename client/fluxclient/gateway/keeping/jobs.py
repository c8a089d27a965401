"""Pictures that are drawn while nobody waits for the answer."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from fluxclient.errors import FluxError, InvalidArgument, Overloaded, shown
from fluxclient.gateway.errors import ApiError, api_error, internal_error
from fluxclient.result import Event, Progress, Result

log = logging.getLogger("fluxclient.gateway")


@dataclass(eq=False)
class Job:
    """Its own task sets what becomes of it."""

    caller: str
    """Who may see it."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: Literal["queued", "running", "completed", "failed", "cancelled"] = "queued"
    progress: Progress | None = None
    result: Result | None = None
    seconds: float = 0.0
    """From its beginning to its end."""
    error: ApiError | None = None
    finished_s: float | None = None
    fetched: bool = False
    """Its caller was told how it ended."""
    task: asyncio.Task[None] | None = None


class Jobs:
    """A bounded number of jobs, with a bounded number of bytes in their pictures.

    Finished ones go when their time is over, or when their room is needed: those first whose end was told, and of
    them the older ones.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int,
        keep_s: float,
        drawn: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`drawn` is called for each picture."""
        self._most = most
        self._most_bytes = most_bytes
        self._keep_s = keep_s
        self._drawn = drawn
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    def start(self, caller: str, events: AsyncGenerator[Event, None]) -> Job:
        """Raises Overloaded if all places are taken by unfinished jobs."""
        self._drop_old()
        if len(self._jobs) >= self._most and not self._drop_one():
            problem = f"all {self._most} places are taken by jobs that are not finished; try again later"
            raise Overloaded(problem, field="jobs")
        job = Job(caller)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, events))
        return job

    def find(self, job_id: str, caller: str) -> Job:
        """Raises ApiError (404), also for the job of another caller."""
        self._drop_old()
        job = self._jobs.get(job_id)
        if job is None or job.caller != caller:
            message = f"there is no job {shown(job_id)}, or no longer"
            raise ApiError(404, message, code="not_found", param="job_id")
        return job

    async def cancel(self, job: Job) -> None:
        """Waits until it has ended. A finished job stays what it is."""
        assert job.task is not None  # set where it is made
        job.task.cancel()
        await asyncio.gather(job.task, return_exceptions=True)
        if job.finished_s is None:  # it was cancelled before its first turn
            self._finish(job, "cancelled")

    async def close(self) -> None:
        """Cancels what runs."""
        await asyncio.gather(*(self.cancel(job) for job in self._jobs.values()))

    async def _run(self, job: Job, events: AsyncGenerator[Event, None]) -> None:
        start_s = self._clock()
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Result):
                        self._drawn()
                        self._keep(job, event)
                    elif event.step > 0:  # before, it only says that it still waits
                        job.status, job.progress = "running", event
            self._finish(job, "completed")
        except asyncio.CancelledError:
            self._finish(job, "cancelled")
        except FluxError as error:
            job.error = api_error(error)
            self._finish(job, "failed")
        except Exception:
            log.exception("job %s failed", job.id)
            job.error = internal_error()
            self._finish(job, "failed")
        job.seconds = self._clock() - start_s

    def _finish(self, job: Job, status: Literal["completed", "failed", "cancelled"]) -> None:
        job.status, job.finished_s = status, self._clock()
        outcome = (
            f" flux={job.result.request_id}" if job.result else f" error={job.error.message!r}" if job.error else ""
        )
        log.info("job %s %s%s", job.id, status, outcome)

    def _drop_old(self) -> None:
        now_s = self._clock()
        for job in list(self._jobs.values()):
            if job.finished_s is not None and job.finished_s + self._keep_s <= now_s:
                del self._jobs[job.id]

    def _keep(self, job: Job, result: Result) -> None:
        """Raises InvalidArgument for more than there can be room for."""
        size = _size(result)
        if size > self._most_bytes:
            problem = f"has a picture of {size} bytes; at most {self._most_bytes} can be kept, so ask for a smaller one"
            raise InvalidArgument(problem, field="job")
        while size + sum(_size(kept.result) for kept in self._jobs.values()) > self._most_bytes:
            if not self._drop_one():
                break
        job.result = result

    def _drop_one(self) -> bool:
        finished = [job for job in self._jobs.values() if job.finished_s is not None]
        if not finished:
            return False
        del self._jobs[min(finished, key=lambda job: (not job.fetched, job.finished_s)).id]
        return True


def _size(result: Result | None) -> int:
    return sum(map(len, result.files)) if result else 0
