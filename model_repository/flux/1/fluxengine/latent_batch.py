"""The batch of one picture size: one row of preallocated memory for each running job."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fluxengine.config import Size
from fluxengine.family import Conditioning, Schedule
from fluxengine.job import Job


class RowState:
    """What a job needs to be stepped: kept here while it has no row."""

    __slots__ = ("conditioning", "latents", "schedule")

    def __init__(self, latents: torch.Tensor, conditioning: Conditioning, schedule: Schedule) -> None:
        self.latents = latents  # [S, C]
        self.conditioning = conditioning
        self.schedule = schedule


class LatentBatch:
    """Rows 0…n−1 of each buffer belong to the n jobs of the batch, so that a step works on slices and copies nothing.

    A row is copied when a job joins, and when another takes the place of one that left.
    """

    def __init__(self, size: Size, rows: int, example: RowState) -> None:
        self.size = size
        self.jobs: list[Job] = []
        self._rows: dict[Job, int] = {}
        self._states: dict[Job, RowState] = {}
        self._latents = example.latents.new_empty((rows, *example.latents.shape))
        self._conditioning = {
            name: tensor.new_empty((rows, *tensor.shape)) for name, tensor in example.conditioning.items()
        }
        self._controls = torch.empty((3, rows), dtype=torch.float32, device=example.latents.device)

    def sync(self, jobs: Sequence[Job], states: dict[Job, RowState]) -> None:
        """Makes the batch consist of `jobs`. Who is not among them and still wanted gets its latents back."""
        wanted = set(jobs)
        for job in [job for job in self.jobs if job not in wanted]:
            self._drop(job, keep=job in states)
        for job in jobs:
            if job not in self._rows:
                self._put(job, states[job], len(self.jobs))
                self.jobs.append(job)

    def controls(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(timesteps, guidance, deltas) of rows start…stop for their next step, each [B] float32 on the device."""
        columns = [
            (schedule.timesteps[job.step], job.guidance_scale, schedule.deltas[job.step])
            for job in self.jobs[start:stop]
            for schedule in (self._states[job].schedule,)
        ]
        self._controls[:, start:stop] = torch.tensor(columns, dtype=torch.float32).T
        timesteps, guidance, deltas = self._controls[:, start:stop]
        return timesteps, guidance, deltas

    def latents(self, start: int, stop: int) -> torch.Tensor:
        """[B, S, C], a view: writing to it is the step."""
        return self._latents[start:stop]

    def conditioning(self, start: int, stop: int) -> Conditioning:
        return {name: buffer[start:stop] for name, buffer in self._conditioning.items()}

    def sigma(self, job: Job) -> float:
        return self._states[job].schedule.sigmas[job.step]

    def _put(self, job: Job, state: RowState, row: int) -> None:
        self._latents[row] = state.latents
        for name, tensor in state.conditioning.items():
            self._conditioning[name][row] = tensor
        self._rows[job] = row
        self._states[job] = state

    def _drop(self, job: Job, keep: bool) -> None:
        row = self._rows.pop(job)
        state = self._states.pop(job)
        if keep:
            state.latents = self._latents[row].clone()
        last = self.jobs.pop()
        if last is not job:
            source = self._rows[last]
            self._latents[row] = self._latents[source]
            for buffer in self._conditioning.values():
                buffer[row] = buffer[source]
            self.jobs[row] = last
            self._rows[last] = row
