"""The batch of one picture size: one row of preallocated memory for each row of the transformer's calls."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch

from fluxengine.device.step_cache import StepReuse
from fluxengine.families.base import Conditioning, Schedule, StepCacheRows
from fluxengine.job import Job
from fluxengine.lora.layers import LoraScales
from fluxengine.size import Size


class RowState:
    """What one row needs to be stepped: kept here while it has no place. A job with true CFG has two, else one."""

    __slots__ = ("conditioning", "job", "kept", "latents", "loras", "reuse", "schedule")

    def __init__(
        self,
        job: Job,
        latents: torch.Tensor,
        conditioning: Conditioning,
        schedule: Schedule,
        loras: LoraScales = (),
        reuse: StepReuse | None = None,
    ) -> None:
        self.job = job
        self.latents = latents  # [S, C]
        self.conditioning = conditioning
        self.schedule = schedule
        self.loras = loras
        self.reuse = reuse
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None  # of the step cache, each [S, D]

    @property
    def finished(self) -> bool:
        """Whether it will not be stepped any more."""
        return self.job.step >= self.job.total_steps


class LatentBatch:
    """Rows 0…n−1 of each buffer belong to the n rows of the batch, so that a step works on slices and copies nothing.

    A row is copied when it joins, and when another takes the place of one that left.
    """

    def __init__(self, size: Size, capacity: int, example: RowState, step_cache_shape: tuple[int, int] | None) -> None:
        self.size = size
        self.rows: list[RowState] = []
        self._places: dict[RowState, int] = {}
        latents = example.latents
        self.latents = latents.new_empty((capacity, *latents.shape))
        """[capacity, S, C]"""
        self.velocity = torch.empty_like(self.latents)
        cached = latents.new_zeros((2, capacity, *step_cache_shape)) if step_cache_shape else None
        self.first: torch.Tensor | None = None if cached is None else cached[0]
        self.rest: torch.Tensor | None = None if cached is None else cached[1]
        """[capacity, S, D] each, see StepCacheRows"""
        self.distances = torch.zeros(capacity, dtype=torch.float32, device=latents.device)
        self._conditioning = {
            name: tensor.new_empty((capacity, *tensor.shape)) for name, tensor in example.conditioning.items()
        }
        self._controls = torch.empty((3, capacity), dtype=torch.float32, device=latents.device)

    def sync(self, rows: Sequence[RowState], wanted: Container[Job]) -> None:
        """Makes the batch consist of `rows`. Those of other jobs that are still `wanted` take their latents along."""
        staying = set(rows)
        for row in [row for row in self.rows if row not in staying]:
            self._drop(row, keep=row.job in wanted)
        for row in rows:
            if row not in self._places:
                self._put(row, len(self.rows))
                self.rows.append(row)

    def place(self, row: RowState) -> int:
        """Which of the rows of each buffer is its own."""
        return self._places[row]

    def controls(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(timesteps, guidance, deltas) of all rows for their next step, each [n] float32 on the device."""
        columns = [
            (row.schedule.timesteps[row.job.step], row.job.guidance_scale, row.schedule.deltas[row.job.step])
            for row in self.rows
        ]
        self._controls[:, : len(columns)] = torch.tensor(columns, dtype=torch.float32).T
        timesteps, guidance, deltas = self._controls[:, : len(columns)]
        return timesteps, guidance, deltas

    def conditioning(self, start: int, stop: int) -> Conditioning:
        return {name: buffer[start:stop] for name, buffer in self._conditioning.items()}

    def cached(self, start: int, stop: int, reuse: Sequence[bool]) -> StepCacheRows | None:
        """What the step cache keeps of rows start…stop, if there is one."""
        if self.first is None or self.rest is None:
            return None
        return StepCacheRows(reuse, self.first[start:stop], self.rest[start:stop], self.distances[start:stop])

    def _put(self, row: RowState, place: int) -> None:
        self.latents[place] = row.latents
        for name, tensor in row.conditioning.items():
            self._conditioning[name][place] = tensor
        if row.kept is not None and self.first is not None and self.rest is not None:
            self.first[place], self.rest[place] = row.kept
            row.kept = None
        self._places[row] = place

    def _drop(self, row: RowState, keep: bool) -> None:
        place = self._places[row]
        if keep:  # may fail for want of memory, so before anything else
            if not row.finished and self.first is not None and self.rest is not None:
                row.kept = self.first[place].clone(), self.rest[place].clone()
            row.latents = self.latents[place].clone()
        del self._places[row]
        last = self.rows.pop()
        if last is not row:
            source = self._places[last]
            for buffer in self._moving():
                buffer[place] = buffer[source]
            self.rows[place] = last
            self._places[last] = place

    def _moving(self) -> list[torch.Tensor]:
        """What goes along with a row that changes its place."""
        cached = [buffer for buffer in (self.first, self.rest) if buffer is not None]
        return [self.latents, *cached, *self._conditioning.values()]
