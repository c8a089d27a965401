"""A request in flight: its jobs, and where its answer goes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from fluxengine.errors import FluxError
from fluxengine.job import Job
from fluxengine.wire.picture_files import Picture
from fluxengine.wire.request import MAX_SEED, GenerateRequest


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands after a step. One entry for each row; previews one for each image, row by row."""

    steps: tuple[int, ...]
    totals: tuple[int, ...]
    previews: tuple[Picture | None, ...]

    def after(self, unsent: Progress) -> Progress:
        """This in the place of earlier progress, whose previews are worth seeing as long as there are no newer ones."""
        return (
            self if any(preview is not None for preview in self.previews) else replace(self, previews=unsent.previews)
        )


@dataclass(frozen=True, slots=True)
class Completed:
    """All images of a request and their seeds, row by row, and what the caller may want to know of each row."""

    pictures: tuple[Picture, ...]
    seeds: tuple[int, ...]
    infos: tuple[dict[str, object], ...]


class Reply(Protocol):
    """Where the answer goes: any number of `progress`, then exactly one of the other two. None of them may block."""

    def progress(self, progress: Progress) -> None: ...

    def done(self, completed: Completed) -> None: ...

    def error(self, error: FluxError) -> None: ...


@dataclass(slots=True, eq=False)
class Ticket:
    """One job for each image of a request, row by row. Changed by the engine's thread only, once it was taken."""

    request: GenerateRequest
    """Without its files, once they are decoded."""
    reply: Reply
    upload_bytes: int = field(init=False)
    """What its pictures take of the host's memory, until all of its jobs are encoded."""
    jobs: tuple[Job, ...] = field(init=False)
    """Empty once it has ended, as `pictures`."""
    pictures: dict[Job, Picture] = field(default_factory=dict)
    ended: bool = False

    def __post_init__(self) -> None:
        request = self.request
        self.upload_bytes = request.upload_bytes
        self.jobs = tuple(
            Job(
                ticket=self,
                prompts=row.prompts,
                size=row.size,
                num_inference_steps=row.num_inference_steps,
                skipped_steps=row.skipped_steps,
                guidance_scale=row.guidance_scale,
                true_cfg_scale=row.true_cfg_scale,
                seed=(row.seed + image) & MAX_SEED,
                priority=request.priority,
                arrival_s=request.arrival_s,
                preview_interval=request.preview_interval if request.progress else 0,
            )
            for row in request.rows
            for image in range(request.num_images_per_prompt)
        )

    def end(self) -> None:
        """Nothing more is done for it. All that it holds goes now: jobs and ticket refer to each other, and until
        Python looks for cycles, ended pictures would fill the memory."""
        self.ended = True
        for job in self.jobs:
            job.loras, job.source = (), None  # a batch may know the job until its next step
        self.jobs, self.pictures = (), {}
        self.request = self.request.without_files()

    def jobs_of(self, row: int) -> tuple[Job, ...]:
        return self._rows(self.jobs)[row]

    def progress(self, previews: dict[Job, Picture]) -> Progress:
        """Of nothing, once it has ended. From any thread."""
        jobs = self.jobs
        rows = self._rows(jobs)
        return Progress(
            steps=tuple(min(job.step for job in row) for row in rows),
            totals=tuple(row[0].total_steps for row in rows),
            previews=tuple(previews.get(job) for job in jobs),
        )

    def _rows(self, jobs: tuple[Job, ...]) -> list[tuple[Job, ...]]:
        images = self.request.num_images_per_prompt
        return [jobs[start : start + images] for start in range(0, len(jobs), images)]
