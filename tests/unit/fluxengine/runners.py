"""Jobs for a runner, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fluxengine.device.runner import Runner
from fluxengine.errors import FluxError
from fluxengine.job import Job, Ticket
from tests.unit.fluxengine.answers import Answer, request
from tests.unit.fluxengine.arithmetic import level

MAX_BATCH = 8
NO_MEMORY = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 9 GB")]


def make_jobs(count: int, steps: int = 3, size: tuple[int, int] = (64, 64), preview_interval: int = 0) -> list[Job]:
    """Different prompts, seeds and guidance; the same steps, so that they can be run in one go."""
    return [
        Ticket(
            request(
                f"p{n}",
                seed=10 * n,
                guidance=float(n),
                steps=steps,
                size=size,
                progress=True,
                preview_interval=preview_interval,
            ),
            Answer(),
        ).jobs[0]
        for n in range(count)
    ]


def expected(job: Job) -> int:
    return level(job.prompts[0], job.total_steps, job.guidance_scale, job.seed)


def draw(runner: Runner, jobs: Sequence[Job]) -> dict[Job, FluxError]:
    """Encodes, steps and decodes jobs of equal steps; checks every picture that came out; returns the failures."""
    failures = runner.encode(jobs)
    while left := [job for job in jobs if job not in failures and job.step < job.total_steps]:
        failures |= runner.step(left).failures
    finished = [job for job in jobs if job not in failures]
    if finished:
        pictures, failed = runner.decode(finished)
        failures |= failed
        assert {job: picture.max() for job, picture in pictures.items()} == {job: expected(job) for job in pictures}
        assert all(picture.shape == (*job.size, 3) for job, picture in pictures.items())
        assert set(pictures) | set(failures) == set(jobs)
    for job in jobs:
        runner.release(job)
    return failures


def no_room(*_: object, **__: object) -> None:
    raise NO_MEMORY[0]
