"""The only part that touches tensors: encodes prompts, steps batches, decodes pictures."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Sequence, Set
from dataclasses import dataclass, field

import torch

from fluxengine.config import Size
from fluxengine.device.latent_batch import LatentBatch, RowState
from fluxengine.device.prompt_cache import PromptCache
from fluxengine.device.step_cache import Readback, StepReuse
from fluxengine.errors import FluxError, Internal, OutOfMemory
from fluxengine.families.base import Conditioning, Family
from fluxengine.job import Job
from fluxengine.lora.layers import LoraScales
from fluxengine.wire.picture_files import Picture

KEPT_SIZES = 4
"""Picture sizes whose buffers are kept while nobody uses them."""

TRY_MORE_AFTER = 200
"""Steps of a batch that was made smaller for want of memory, before a larger one is tried: neighbours may have left."""

log = logging.getLogger("fluxengine")


class DeviceLost(Exception):
    """The accelerator gave an error that it does not recover from within this process."""


@dataclass(slots=True)
class StepOutcome:
    failures: dict[Job, FluxError]
    previews: dict[Job, Picture] = field(default_factory=dict)
    reused: int = 0
    """Rows for which only the first block was computed."""


_Prompt = tuple[str, LoraScales]
"""A text, and the LoRAs that its encoding depends on."""


class Runner:
    """Called by one thread only. A failure is that of single jobs; the others of the batch go on."""

    def __init__(
        self,
        family: Family,
        max_batch: int,
        prompt_cache: PromptCache,
        preview_size: int | None,
        step_cache: float | None = None,
    ) -> None:
        """`step_cache`: how much of a change between steps may be ignored, see StepReuse; None for nothing."""
        self.family = family
        self.job_bytes = 0
        """What the largest job so far keeps on the device, besides its rows of a batch."""
        self.cache_hits = 0
        self.cache_misses = 0
        self._max_batch = max_batch
        self._prompt_cache = prompt_cache
        self._preview_size = preview_size
        self._step_cache = step_cache
        self._states: dict[Job, tuple[RowState, ...]] = {}
        self._batches: dict[Size, LatentBatch] = {}  # least recently stepped first
        self._fits: dict[Size, int] = {}  # rows that fitted into memory, where max_batch did not
        self._fitted: Counter[Size] = Counter()  # steps since then

    def encode(self, jobs: Sequence[Job]) -> dict[Job, FluxError]:
        """Gives each job its prompt embeddings, first latents and schedule. Returns those that failed, and why."""
        prompts = {job: [(text, _text_loras(job.loras)) for text in job.prompts] for job in jobs}
        wanted = [prompt for texts in prompts.values() for prompt in texts]
        found: dict[_Prompt, Conditioning] = {}
        for prompt in dict.fromkeys(wanted):
            cached = self._prompt_cache.get(_cache_key(prompt))
            if cached is not None:
                found[prompt] = cached
        missing = list(dict.fromkeys(prompt for prompt in wanted if prompt not in found))
        self.cache_hits += len(wanted) - len(missing)
        self.cache_misses += len(missing)

        def encode_some(start: int, stop: int) -> None:
            some = missing[start:stop]
            encoded = self.family.encode_prompts([text for text, _ in some], [loras for _, loras in some])
            for prompt, conditioning in zip(some, encoded, strict=True):
                found[prompt] = conditioning
                self._prompt_cache.put(_cache_key(prompt), conditioning)

        failed = {missing[row]: error for row, error in _halving(len(missing), self._max_batch, encode_some).items()}
        failures = {job: failed[prompt] for job in jobs for prompt in prompts[job] if prompt in failed}
        rest = [job for job in jobs if job not in failures]

        def prepare_one(row: int, _: int) -> None:
            job = rest[row]
            self._states[job] = self._first_state(job, [found[prompt] for prompt in prompts[job]])
            job.source = None
            job.encoded = True

        return failures | {rest[row]: error for row, error in _halving(len(rest), 1, prepare_one).items()}

    def _first_state(self, job: Job, conditionings: Sequence[Conditioning]) -> tuple[RowState, ...]:
        schedule = self.family.schedule(job.size, job.num_inference_steps).after(job.skipped_steps)
        if job.source is None:
            latents = self.family.initial_latents(job.size, job.seed)
        else:
            latents = self.family.latents_from(job.source, job.seed, schedule.sigmas[0])
        kept = [latents, *(tensor for conditioning in conditionings for tensor in conditioning.values())]
        self.job_bytes = max(self.job_bytes, sum(tensor.nbytes for tensor in kept))
        return tuple(
            RowState(
                job,
                latents,
                conditioning,
                schedule,
                job.loras,
                None if self._step_cache is None else StepReuse(self._step_cache),
            )
            for conditioning in conditionings
        )

    def step(self, jobs: Sequence[Job]) -> StepOutcome:
        """One denoising step for jobs of one size."""
        size = jobs[0].size
        try:
            batch = self._join_batch(size, jobs)
            timesteps, guidance, deltas = batch.controls()
        except (RuntimeError, MemoryError) as error:
            failure = _as_flux_error(error)
            return StepOutcome({job: failure for job in jobs})
        rows = list(batch.rows)
        reuse = [row.reuse is not None and row.reuse.reuses(row.job.step) for row in rows]
        guided = [job for job in jobs if len(self._states[job]) == 2]
        shown = [job for job in jobs if job.preview_interval and (job.step + 1) % job.preview_interval == 0]
        guesses: list[tuple[Job, torch.Tensor]] = []

        def predict_some(start: int, stop: int) -> None:
            part = slice(start, stop)
            batch.velocity[part] = self.family.predict(
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

        fits = self._fits.get(size, self._max_batch)
        failed = _halving(len(rows), fits, predict_some, lambda rows: self._shrink(size, rows))
        self._grow(size)
        failures = {
            guided[n]: e for n, e in _halving(len(guided), 1, lambda n, _: self._guide(batch, guided[n])).items()
        }
        _halving(len(shown), 1, lambda n, _: guesses.append((shown[n], self._guess(batch, shown[n]))))
        if self._step_cache is not None and _halving(1, 1, lambda *_: self._remember(batch, reuse)):
            for row in rows:
                row.reuse = StepReuse(self._step_cache)  # of which nothing is known
        failed |= _halving(len(rows), len(rows), move_some)
        failures |= {rows[place].job: error for place, error in failed.items()}
        for job in jobs:
            if job not in failures:
                job.step += 1
        finished = {job for job in jobs if job.step >= job.total_steps}
        failures |= self._leave_batch(batch, finished, failures.keys())
        outcome = StepOutcome(failures, reused=sum(reuse))
        if guesses := [(job, guess) for job, guess in guesses if job not in failures]:
            self._preview(size, guesses, outcome.previews)
        return outcome

    def _join_batch(self, size: Size, jobs: Sequence[Job]) -> LatentBatch:
        """The batch, of these jobs alone. Where memory runs out, it is tried again once without what lies idle."""
        while True:
            try:
                batch = self._batch(size, self._states[jobs[0]][0])
                batch.sync([row for job in jobs for row in self._states[job]], self._states)
                return batch
            except (RuntimeError, MemoryError) as error:
                if not (_is_out_of_memory(error) and self._drop_idle(size)):
                    raise

    def _leave_batch(self, batch: LatentBatch, finished: Set[Job], failed: Set[Job]) -> dict[Job, FluxError]:
        """Jobs leave the batch; the finished wait for decoding. Returns those of them that cannot."""
        staying = [row for row in batch.rows if row.job not in finished and row.job not in failed]
        try:
            batch.sync(staying, finished)
        except (RuntimeError, MemoryError) as error:
            failure = _as_flux_error(error)
            without = {row.job: failure for row in batch.rows if row.job in finished}
            batch.sync(staying, ())
            return without
        return {}

    def _guide(self, batch: LatentBatch, job: Job) -> None:
        """True classifier-free guidance: both rows of the job move as diffusers' pipeline combines them."""
        wanted, unwanted = (batch.place(row) for row in self._states[job])
        velocity = batch.velocity
        velocity[wanted] = velocity[unwanted] + job.true_cfg_scale * (velocity[wanted] - velocity[unwanted])
        velocity[unwanted] = velocity[wanted]

    def _guess(self, batch: LatentBatch, job: Job) -> torch.Tensor:
        """The picture's latents as this step predicts them: x − σ·v."""
        row = self._states[job][0]
        place = batch.place(row)
        return batch.latents[place].float() - row.schedule.sigmas[job.step] * batch.velocity[place].float()

    def _remember(self, batch: LatentBatch, reused: Sequence[bool]) -> None:
        distances = Readback(batch.distances[: len(batch.rows)])
        for place, row in enumerate(batch.rows):
            if row.reuse is not None:
                row.reuse.stepped(row.job.step, reused[place], distances, place)

    def decode(self, jobs: Sequence[Job]) -> tuple[dict[Job, Picture], dict[Job, FluxError]]:
        """The pictures of jobs of one size that have had all their steps, and the failures."""
        pictures: dict[Job, Picture] = {}

        def decode_some(start: int, stop: int) -> None:
            latents = torch.stack([self._states[job][0].latents for job in jobs[start:stop]])
            decoded = self.family.decode(jobs[0].size, latents).numpy()
            pictures.update(zip(jobs[start:stop], decoded, strict=True))

        failed = _halving(len(jobs), len(jobs), decode_some)
        return pictures, {jobs[row]: error for row, error in failed.items()}

    def release(self, job: Job) -> None:
        """Forgets a job. Its row is given up when its batch is stepped next."""
        self._states.pop(job, None)

    def _batch(self, size: Size, example: RowState) -> LatentBatch:
        batch = self._batches.pop(size, None)
        if batch is None:
            for idle in self._idle()[: max(0, len(self._batches) + 1 - KEPT_SIZES)]:
                del self._batches[idle]
            shape = None if self._step_cache is None else self.family.step_cache_shape(size)
            batch = LatentBatch(size, max(2, self._max_batch), example, shape)  # one job may need two rows
        self._batches[size] = batch
        return batch

    def _idle(self) -> list[Size]:
        """Sizes that nobody in flight has."""
        return [size for size, batch in self._batches.items() if not any(row.job in self._states for row in batch.rows)]

    def _drop_idle(self, size: Size) -> bool:
        """Gives back the memory of sizes other than this that nobody uses. False if there is none."""
        idle = [other for other in self._idle() if other != size]
        for other in idle:
            del self._batches[other]
        if self.family.device.type == "cuda":
            torch.cuda.empty_cache()
        return bool(idle)

    def _shrink(self, size: Size, rows: int) -> None:
        if self._drop_idle(size):
            log.warning("out of memory at a batch of %d for %dx%d: gave back unused buffers", rows, size[1], size[0])
            return
        self._fits[size], self._fitted[size] = max(1, rows // 2), 0
        log.warning(
            "out of memory at a batch of %d for %dx%d: going on with %d", rows, size[1], size[0], self._fits[size]
        )

    def _grow(self, size: Size) -> None:
        """After each step: what did not fit may do so by now."""
        if size in self._fits:
            self._fitted[size] += 1
            if self._fitted[size] >= TRY_MORE_AFTER:
                self._fits[size], self._fitted[size] = 2 * self._fits[size], 0
                if self._fits[size] >= self._max_batch:
                    del self._fits[size]

    def _preview(self, size: Size, guesses: list[tuple[Job, torch.Tensor]], previews: dict[Job, Picture]) -> None:
        edge = self._preview_size or min(256, max(size) // 2)

        def preview_some(start: int, stop: int) -> None:
            latents = torch.stack([guess for _, guess in guesses[start:stop]]).to(self.family.dtype)
            decoded = self.family.preview(size, latents, edge).numpy()
            previews.update(zip([job for job, _ in guesses[start:stop]], decoded, strict=True))

        for row, error in _halving(len(guesses), len(guesses), preview_some).items():
            log.warning("no preview for seed %d: %s", guesses[row][0].seed, error)  # the picture itself goes on


def _cache_key(prompt: _Prompt) -> Hashable:
    """Without the LoRAs themselves, which would stay in memory as long as the embeddings."""
    text, loras = prompt
    return text, tuple((lora.serial, scale) for lora, scale in loras)


def _text_loras(loras: LoraScales) -> LoraScales:
    return tuple((lora, scale) for lora, scale in loras if lora.text_encoder or lora.text_encoder_2)


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
    if _is_out_of_memory(error):
        return OutOfMemory("device", "has no memory for this picture even alone; ask for a smaller one")
    if isinstance(error, torch.AcceleratorError) and _is_lost():
        raise DeviceLost(str(error)) from error
    return Internal("model", f"{type(error).__name__}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    # Allocators of the CPU raise a plain RuntimeError, and CUDA itself an AcceleratorError, as where it loads a kernel.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        said in str(error) for said in ("can't allocate memory", "CUDA error: out of memory")
    )


def _is_lost() -> bool:
    """Whether the device does nothing any more, as after a fault in a kernel; a bad launch it survives."""
    try:
        torch.accelerator.synchronize()
    except RuntimeError:
        return True
    return False
