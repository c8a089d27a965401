"""Encodes prompts, steps batches, decodes pictures: each turn of the engine, as tensors."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import torch

from fluxengine.config import EngineConfig
from fluxengine.device.batches import Batches
from fluxengine.device.failures import as_flux_error, halving, is_out_of_memory
from fluxengine.device.latent_batch import LatentBatch, RowState
from fluxengine.device.previews import is_shown, make_previews, predicted_latents
from fluxengine.device.prompt_cache import EncodedPrompt, PromptCache
from fluxengine.device.prompt_encoder import PromptEncoder
from fluxengine.device.step_cache import StepCache
from fluxengine.errors import FluxError
from fluxengine.families.base import Family
from fluxengine.job import Job
from fluxengine.size import Size
from fluxengine.wire.picture_files import Picture


@dataclass(slots=True)
class StepOutcome:
    failures: dict[Job, FluxError]
    previews: dict[Job, Picture] = field(default_factory=dict)
    reused: int = 0
    """Rows for which only the first block was computed."""


class Runner:
    """Called by one thread only. A failure is that of single jobs; the others of the batch go on."""

    def __init__(self, family: Family, config: EngineConfig) -> None:
        self.job_bytes = 0
        """What the largest job so far keeps on the device, besides its rows of a batch."""
        self.prompts = PromptEncoder(family, config.max_batch, PromptCache(config.prompt_cache_entries))
        self._family = family
        self._preview_size = config.preview_size
        self._step_cache = None if config.step_cache is None else StepCache(config.step_cache)
        self._rows: dict[Job, tuple[RowState, ...]] = {}
        self._batches = Batches(family, config.max_batch, self._rows, step_cache=self._step_cache is not None)

    def encode(self, jobs: Sequence[Job]) -> dict[Job, FluxError]:
        """Gives each job its prompt embeddings, first latents and schedule. Returns those that failed, and why."""
        encoded = self.prompts.encode(jobs)
        rest = list(encoded.prompts)
        failed = halving(len(rest), 1, lambda row, _: self._admit(rest[row], encoded.prompts[rest[row]]))
        return encoded.failures | {rest[row]: error for row, error in failed.items()}

    def _admit(self, job: Job, prompts: Sequence[EncodedPrompt]) -> None:
        schedule = self._family.schedule(job.size, job.num_inference_steps).after(job.skipped_steps)
        prepared = self._family.prepare(job.size, schedule, job.seed, job.source)
        rows = self._family.admit(prepared, [prompt.conditioning for prompt in prompts])
        kept = [rows[0].latents, *(tensor for row in rows for tensor in row.conditioning.values())]
        self.job_bytes = max(self.job_bytes, sum(tensor.nbytes for tensor in kept))
        self._rows[job] = tuple(
            RowState(
                job,
                row.latents,
                row.conditioning,
                row.schedule,
                job.loras,
                self._step_cache.new_row() if self._step_cache else None,
            )
            for row in rows
        )
        job.left_out = tuple(prompt.left_out for prompt in prompts)
        job.source = None
        job.encoded = True

    def step(self, jobs: Sequence[Job]) -> StepOutcome:
        """One denoising step for jobs of one size."""
        size = jobs[0].size
        try:
            batch = self._join_batch(size, jobs)
            timesteps, guidance, deltas = batch.controls()
        except (RuntimeError, MemoryError) as error:
            failure = as_flux_error(error)
            return StepOutcome({job: failure for job in jobs})
        rows = list(batch.rows)
        reuse = [row.reuse is not None and row.reuse.reuses(row.job.step) for row in rows]
        guided = [job for job in jobs if len(self._rows[job]) == 2]
        shown = [self._rows[job][0] for job in jobs if is_shown(job)]
        predicted: list[tuple[Job, torch.Tensor]] = []

        def predict_some(start: int, stop: int) -> None:
            part = slice(start, stop)
            batch.velocity[part] = self._family.predict(
                size,
                batch.latents[part],
                timesteps[part],
                guidance[part],
                batch.conditioning(start, stop),
                [row.loras for row in rows[part]],
                batch.cached(start, stop, reuse[part]),
            )

        def move_some(start: int, stop: int) -> None:
            # As FlowMatchEulerDiscreteScheduler.step rounds: the product in the model's dtype, the sum in float32.
            latents, velocity = batch.latents[start:stop], batch.velocity[start:stop]
            latents.copy_(latents.float() + deltas[start:stop, None, None].to(velocity.dtype) * velocity)

        def shrink(rows: int) -> None:
            self._batches.shrink(size, rows)

        failed = halving(len(rows), self._batches.rows_that_fit(size), predict_some, shrink)
        self._batches.grow(size)
        failures = {
            guided[n]: e for n, e in halving(len(guided), 1, lambda n, _: self._guide(batch, guided[n])).items()
        }
        halving(
            len(shown), 1, lambda n, _: predicted.append((shown[n].job, predicted_latents(batch, shown[n])))
        )  # without a preview, the picture goes on
        if self._step_cache is not None:
            self._step_cache.remember([(row.reuse, row.job.step) for row in rows], reuse, batch.distances)
        failed |= halving(len(rows), len(rows), move_some)
        failures |= {rows[place].job: error for place, error in failed.items()}
        for job in jobs:
            if job not in failures:
                job.step += 1
        finished = {job for job in jobs if job.step >= job.total_steps}
        failures |= self._leave_batch(batch, finished, failures.keys())
        predicted = [(job, latents) for job, latents in predicted if job not in failures]
        previews = make_previews(self._family, size, predicted, self._preview_size) if predicted else {}
        return StepOutcome(failures, previews, reused=sum(reuse))

    def _join_batch(self, size: Size, jobs: Sequence[Job]) -> LatentBatch:
        """The batch, of these jobs alone. Where memory runs out, it is tried again once without what lies idle."""
        while True:
            try:
                batch = self._batches.of(size, self._rows[jobs[0]][0])
                batch.sync([row for job in jobs for row in self._rows[job]], self._rows)
                return batch
            except (RuntimeError, MemoryError) as error:
                if not (is_out_of_memory(error) and self._batches.drop_idle(size)):
                    raise

    def _leave_batch(self, batch: LatentBatch, finished: Set[Job], failed: Set[Job]) -> dict[Job, FluxError]:
        """Jobs leave the batch; the finished wait for decoding. Returns those of them that cannot."""
        staying = [row for row in batch.rows if row.job not in finished and row.job not in failed]
        try:
            batch.sync(staying, finished)
        except (RuntimeError, MemoryError) as error:
            failure = as_flux_error(error)
            without = {row.job: failure for row in batch.rows if row.job in finished}
            batch.sync(staying, ())
            return without
        return {}

    def _guide(self, batch: LatentBatch, job: Job) -> None:
        """True classifier-free guidance: both rows of the job move as diffusers' pipeline combines them."""
        wanted, unwanted = (batch.place(row) for row in self._rows[job])
        velocity = batch.velocity
        velocity[wanted] = velocity[unwanted] + job.true_cfg_scale * (velocity[wanted] - velocity[unwanted])
        velocity[unwanted] = velocity[wanted]

    def decode(self, jobs: Sequence[Job]) -> tuple[dict[Job, Picture], dict[Job, FluxError]]:
        """The pictures of jobs of one size that have had all their steps, and the failures."""
        pictures: dict[Job, Picture] = {}

        def decode_some(start: int, stop: int) -> None:
            latents = torch.stack([self._rows[job][0].latents for job in jobs[start:stop]])
            decoded = self._family.decode(jobs[0].size, latents).numpy()
            pictures.update(zip(jobs[start:stop], decoded, strict=True))

        failed = halving(len(jobs), len(jobs), decode_some)
        return pictures, {jobs[row]: error for row, error in failed.items()}

    def release(self, job: Job) -> None:
        """Forgets a job. Its row is given up when its batch is stepped next."""
        self._rows.pop(job, None)
