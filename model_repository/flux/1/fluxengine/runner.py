"""The only part that touches tensors: encodes prompts, steps batches, decodes pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from fluxengine.config import Size
from fluxengine.errors import FluxError, Internal, OutOfMemory
from fluxengine.family import Conditioning, Family
from fluxengine.job import Job
from fluxengine.latent_batch import LatentBatch, RowState
from fluxengine.prompt_cache import PromptCache
from fluxengine.ticket import Picture

KEPT_SIZES = 4
"""Picture sizes whose buffers are kept while nobody uses them."""

log = logging.getLogger("fluxengine")


class DeviceLost(Exception):
    """The accelerator gave an error that it does not recover from within this process."""


@dataclass(slots=True)
class StepOutcome:
    failures: dict[Job, FluxError]
    previews: dict[Job, Picture] = field(default_factory=dict)


class Runner:
    """Called by one thread only. A failure is that of single jobs; the others of the batch go on."""

    def __init__(self, family: Family, max_batch: int, prompt_cache: PromptCache, preview_size: int | None) -> None:
        self.family = family
        self.cache_hits = 0
        self.cache_misses = 0
        self._max_batch = max_batch
        self._prompt_cache = prompt_cache
        self._preview_size = preview_size
        self._states: dict[Job, RowState] = {}
        self._batches: dict[Size, LatentBatch] = {}  # least recently stepped first
        self._fits: dict[Size, int] = {}  # rows that fitted into memory, where max_batch did not

    def encode(self, jobs: Sequence[Job]) -> dict[Job, FluxError]:
        """Gives each job its prompt embeddings, first latents and schedule. Returns those that failed, and why."""
        found: dict[str, Conditioning] = {}
        for prompt in dict.fromkeys(job.prompt for job in jobs):
            cached = self._prompt_cache.get(prompt)
            if cached is not None:
                found[prompt] = cached
        missing = list(dict.fromkeys(job.prompt for job in jobs if job.prompt not in found))
        self.cache_hits += len(jobs) - len(missing)
        self.cache_misses += len(missing)

        def encode_some(start: int, stop: int) -> None:
            prompts = missing[start:stop]
            for prompt, conditioning in zip(prompts, self.family.encode_prompts(prompts), strict=True):
                found[prompt] = conditioning
                self._prompt_cache.put(prompt, conditioning)

        failed = {missing[row]: error for row, error in _halving(len(missing), self._max_batch, encode_some).items()}
        failures = {job: failed[job.prompt] for job in jobs if job.prompt in failed}
        rest = [job for job in jobs if job not in failures]

        def prepare_one(row: int, _: int) -> None:
            job = rest[row]
            latents = self.family.initial_latents(job.size, job.seed)
            schedule = self.family.schedule(job.size, job.total_steps)
            self._states[job] = RowState(latents, found[job.prompt], schedule)
            job.encoded = True

        return failures | {rest[row]: error for row, error in _halving(len(rest), 1, prepare_one).items()}

    def step(self, jobs: Sequence[Job]) -> StepOutcome:
        """One denoising step for jobs of one size."""
        size = jobs[0].size
        try:
            batch = self._batch(size, jobs[0])
            batch.sync(jobs, self._states)
        except (RuntimeError, MemoryError) as error:
            failure = _as_flux_error(error)
            return StepOutcome({job: failure for job in jobs})
        rows = list(batch.jobs)
        guesses: list[tuple[Job, torch.Tensor]] = []

        def step_some(start: int, stop: int) -> None:
            timesteps, guidance, deltas = batch.controls(start, stop)
            latents = batch.latents(start, stop)
            velocity = self.family.predict(size, latents, timesteps, guidance, batch.conditioning(start, stop))
            guesses.extend(
                (job, latents[row].float() - batch.sigma(job) * velocity[row].float())  # x − σ·v
                for row, job in enumerate(rows[start:stop])
                if job.preview_interval and (job.step + 1) % job.preview_interval == 0
            )
            # As FlowMatchEulerDiscreteScheduler.step rounds: the product in the model's dtype, the sum in float32.
            move = deltas[:, None, None].to(velocity.dtype) * velocity
            latents.copy_(latents.float() + move)
            for job in rows[start:stop]:
                job.step += 1

        fits = self._fits.get(size, self._max_batch)
        failed = _halving(len(rows), fits, step_some, lambda rows: self._shrink(size, rows))
        outcome = StepOutcome({rows[row]: error for row, error in failed.items()})
        batch.sync([job for job in rows if job.step < job.total_steps], self._states)  # others wait for decoding
        if guesses:
            self._preview(size, guesses, outcome.previews)
        return outcome

    def decode(self, jobs: Sequence[Job]) -> tuple[dict[Job, Picture], dict[Job, FluxError]]:
        """The pictures of jobs of one size that have had all their steps, and the failures."""
        pictures: dict[Job, Picture] = {}

        def decode_some(start: int, stop: int) -> None:
            latents = torch.stack([self._states[job].latents for job in jobs[start:stop]])
            decoded = self.family.decode(jobs[0].size, latents).numpy()
            pictures.update(zip(jobs[start:stop], decoded, strict=True))

        failed = _halving(len(jobs), len(jobs), decode_some)
        return pictures, {jobs[row]: error for row, error in failed.items()}

    def release(self, job: Job) -> None:
        """Forgets a job. Its row is given up when its batch is stepped next."""
        self._states.pop(job, None)

    def _batch(self, size: Size, job: Job) -> LatentBatch:
        batch = self._batches.pop(size, None)
        if batch is None:
            idle = [size for size, batch in self._batches.items() if not any(job in self._states for job in batch.jobs)]
            for size_to_drop in idle[: max(0, len(self._batches) + 1 - KEPT_SIZES)]:
                del self._batches[size_to_drop]
            batch = LatentBatch(size, self._max_batch, self._states[job])
        self._batches[size] = batch
        return batch

    def _shrink(self, size: Size, rows: int) -> None:
        self._fits[size] = max(1, rows // 2)
        log.warning(
            "out of memory at a batch of %d for %dx%d: going on with %d", rows, size[1], size[0], self._fits[size]
        )
        if self.family.device.type == "cuda":
            torch.cuda.empty_cache()

    def _preview(self, size: Size, guesses: list[tuple[Job, torch.Tensor]], previews: dict[Job, Picture]) -> None:
        edge = self._preview_size or min(256, max(size) // 2)
        latents = torch.stack([guess for _, guess in guesses]).to(self.family.dtype)

        def preview_some(start: int, stop: int) -> None:
            decoded = self.family.preview(size, latents[start:stop], edge).numpy()
            previews.update(zip([job for job, _ in guesses[start:stop]], decoded, strict=True))

        for row, error in _halving(len(guesses), len(guesses), preview_some).items():
            log.warning("no preview for seed %d: %s", guesses[row][0].seed, error)  # the picture itself goes on


def _halving(
    count: int,
    limit: int,
    work: Callable[[int, int], None],
    on_out_of_memory: Callable[[int], None] | None = None,
) -> dict[int, FluxError]:
    """Calls `work(start, stop)` for all of 0…count, at most `limit` at a time.

    A part that fails is halved and tried again, until what is at fault stands alone: too large a batch fits then, and
    a row that cannot be done harms no other. Returns the rows that failed even alone.
    """
    failures: dict[int, FluxError] = {}
    parts = [(start, min(start + limit, count)) for start in range(0, count, limit)][::-1]
    while parts:
        start, stop = parts.pop()
        try:
            work(start, stop)
        except Exception as error:
            failure = _as_flux_error(error)
            if stop - start == 1:
                failures[start] = failure
                log.warning("one job failed: %s", failure, exc_info=error)
                continue
            if isinstance(failure, OutOfMemory) and on_out_of_memory:
                on_out_of_memory(stop - start)
            middle = (start + stop) // 2
            parts += [(middle, stop), (start, middle)]
    return failures


def _as_flux_error(error: Exception) -> FluxError:
    # Allocators of the CPU raise a plain RuntimeError.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory("device", "has no memory for this picture even alone; ask for a smaller one")
    if isinstance(error, torch.AcceleratorError):
        raise DeviceLost(str(error)) from error
    return Internal("model", f"{type(error).__name__}: {error}")
