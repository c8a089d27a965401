"""Pictures that are drawn while nobody waits for the answer."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from fluxclient.errors import FluxError, Overloaded
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
    task: asyncio.Task[None] | None = None


class Jobs:
    """A bounded number of jobs. Finished ones go when their time is over, or the oldest when there is no room."""

    def __init__(
        self, most: int, keep_s: float, drawn: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`drawn` is called for each picture."""
        self._most = most
        self._keep_s = keep_s
        self._drawn = drawn
        self._clock = clock
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def start(self, caller: str, events: AsyncGenerator[Event, None]) -> Job:
        """Raises Overloaded if all places are taken by unfinished jobs."""
        self._make_room()
        job = Job(caller)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, events))
        return job

    def find(self, job_id: str, caller: str) -> Job:
        """Raises ApiError (404), also for the job of another caller."""
        self._drop_old()
        job = self._jobs.get(job_id)
        if job is None or job.caller != caller:
            raise ApiError(404, f"there is no job {job_id!r}, or no longer", code="not_found", param="job_id")
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
                        job.result = event
                        self._drawn()
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

    def _make_room(self) -> None:
        self._drop_old()
        if len(self._jobs) < self._most:
            return
        finished = [job for job in self._jobs.values() if job.finished_s is not None]
        if not finished:
            problem = f"all {self._most} places are taken by jobs that are not finished; try again later"
            raise Overloaded(problem, field="jobs")
        del self._jobs[min(finished, key=lambda job: job.finished_s or 0.0).id]
