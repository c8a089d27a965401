"""Which jobs are kept, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from fluxclient.errors import Overloaded
from fluxclient.gateway.errors import ApiError
from fluxclient.gateway.keeping.jobs import Job, Jobs
from fluxclient.result import Event, Info, Progress, Result
from tests.unit.client.gateway.keeping.clock import Clock


async def one_step() -> AsyncGenerator[Event, None]:
    yield Progress(1, 1)


async def ended(job: Job) -> Job:
    assert job.task is not None
    await job.task
    return job


def test_jobs_are_kept_for_a_while_and_the_oldest_go_first() -> None:
    async def scenario() -> None:
        clock = Clock()
        jobs = Jobs(3, 1000, 60, drawn=lambda: None, clock=clock)
        first = await ended(jobs.start("me", one_step()))
        clock.now_s = 1
        second = await ended(jobs.start("me", one_step()))
        third, fourth = jobs.start("me", one_step()), jobs.start("me", one_step())
        with pytest.raises(ApiError, match="there is no job"):
            jobs.find(first.id, "me")
        assert jobs.find(second.id, "me") is second
        clock.now_s = 61
        with pytest.raises(ApiError, match="there is no job"):
            jobs.find(second.id, "me")
        assert jobs.find(third.id, "me") is third  # not finished
        await jobs.cancel(fourth)  # before its first turn
        assert fourth.status == "cancelled"
        await jobs.close()

    asyncio.run(scenario())


def test_unfinished_jobs_keep_their_places() -> None:
    async def scenario() -> None:
        jobs = Jobs(1, 1000, 60, drawn=lambda: None)
        job = jobs.start("me", one_step())
        with pytest.raises(Overloaded, match="all 1 places"):
            jobs.start("me", one_step())
        assert jobs.find(job.id, "me") is job
        await jobs.close()

    asyncio.run(scenario())


def drawn(size: int) -> Result:
    """With a file of so many bytes."""
    info = Info("tiny", 32, 16, 8, 3.5, 64, "", 0, 0, 0, 0, 0, 1)
    return Result("a", (), (7,), info, "r", (bytes(size),))


async def at_once(result: Result) -> AsyncGenerator[Event, None]:
    yield result


def test_the_pictures_of_jobs_have_a_bound_in_bytes() -> None:
    """Those that were fetched go first, then the oldest, and never one that is not finished."""

    async def scenario() -> None:
        clock = Clock()
        jobs = Jobs(100, 1000, 3600, drawn=lambda: None, clock=clock)

        def is_kept(job: Job) -> bool:
            with suppress(ApiError):
                return jobs.find(job.id, "me") is job
            return False

        def kept(*these: Job) -> list[bool]:
            return [is_kept(job) for job in these]

        made = []
        for size in (400, 300, 300):
            made.append(await ended(jobs.start("me", at_once(drawn(size)))))
            clock.now_s += 1
        assert kept(*made) == [True, True, True]
        made[1].fetched = True
        waits = jobs.start("me", stay_away())
        made.append(await ended(jobs.start("me", at_once(drawn(200)))))
        assert kept(*made) == [True, False, True, True]
        made.append(await ended(jobs.start("me", at_once(drawn(600)))))
        assert kept(*made, waits) == [False, False, False, True, True, True]

        too_large = await ended(jobs.start("me", at_once(drawn(1001))))
        assert (too_large.status, too_large.result) == ("failed", None)
        assert too_large.error is not None and "1001 bytes; at most 1000 can be kept" in too_large.error.message
        assert kept(made[4]) == [True], "nothing had to go for it"
        await jobs.close()

    asyncio.run(scenario())


async def stay_away() -> AsyncGenerator[Event, None]:
    await asyncio.Event().wait()
    yield Progress(1, 1)


def test_a_sign_of_life_does_not_make_a_job_run() -> None:
    async def scenario() -> None:
        statuses: list[str] = []

        async def waits_in_line() -> AsyncGenerator[Event, None]:
            for done in (0, 0, 1):
                yield Progress(done, 2)
                statuses.append(job.status)

        jobs = Jobs(1, 1000, 60, drawn=lambda: None)
        job = jobs.start("me", waits_in_line())
        await ended(job)
        assert statuses == ["queued", "queued", "running"]

    asyncio.run(scenario())
