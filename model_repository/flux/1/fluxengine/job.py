"""A request on its way through the engine, and each image of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from fluxengine.reply import Progress, Reply
from fluxengine.size import Size
from fluxengine.wire.inputs import MAX_SEED
from fluxengine.wire.request import GenerateRequest

if TYPE_CHECKING:  # the scheduler, which knows jobs, needs neither numpy nor torch
    from fluxengine.lora.layers import LoraScales
    from fluxengine.wire.picture_files import Picture

HEAD_START_S = 10.0
"""How much later a request of one priority lower counts as arrived: it is overtaken by newer ones, never starved."""


class Phase(Enum):
    NEW = auto()
    """Not with the scheduler yet: what it needs is being prepared."""
    WAITING = auto()
    RUNNING = auto()
    DECODING = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Job:
    """What the parts of the engine know of one image. All of it is read and written by the engine's thread only."""

    # Set at submission, never changed.
    ticket: Ticket
    """The request that it belongs to."""
    prompts: tuple[str, ...]
    """The prompt and, with true classifier-free guidance, the negative prompt: a row of the batch for each."""
    size: Size
    num_inference_steps: int
    """Of the schedule; an image to image job skips the first ones."""
    skipped_steps: int
    guidance_scale: float
    true_cfg_scale: float
    seed: int
    priority: int
    arrival_s: float
    preview_interval: int = 0

    # Set by the preparation, before the scheduler knows of it.
    loras: LoraScales = ()
    source: Picture | None = None
    """The picture that an image to image job starts from, of the job's size, until the job is encoded."""

    # Set by the engine, before the scheduler knows of it.
    cost: float = 1.0
    """What a step of each of its rows takes of the device, against those of others."""

    # Set by the scheduler.
    phase: Phase = Phase.NEW

    # Set by the runner: `encoded` once its prompt embeddings and first latents are there, `step` after each step.
    encoded: bool = False
    left_out: tuple[Mapping[str, str], ...] = ()
    """Of each prompt, by text encoder: the end for which there was no room."""
    step: int = 0

    # Set by the engine, for the caller's `info`.
    started_s: float = 0.0
    """When its prompt was first taken up."""
    encode_s: float = 0.0
    denoised_s: float = 0.0
    """When its last step ended."""
    decode_s: float = 0.0
    batch_sum: int = 0
    """Sum of the sizes of the batches it was stepped in."""

    order: float = field(init=False)
    """Jobs go by this: the arrival, later for lower priorities. It never changes, so nobody starves."""

    def __post_init__(self) -> None:
        self.order = self.arrival_s + HEAD_START_S * self.priority

    @property
    def rows(self) -> int:
        """Of the transformer's batch."""
        return len(self.prompts)

    @property
    def total_steps(self) -> int:
        """That are really done."""
        return self.num_inference_steps - self.skipped_steps

    @property
    def mean_batch(self) -> float:
        return self.batch_sum / self.step if self.step else 0.0


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

    def progress(self, previews: Mapping[Job, Picture]) -> Progress:
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
