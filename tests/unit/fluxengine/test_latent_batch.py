from __future__ import annotations

import random

import torch

from fluxengine.family import Schedule
from fluxengine.job import Job
from fluxengine.latent_batch import LatentBatch, RowState
from fluxengine.ticket import Ticket
from tests.unit.fluxengine.answers import Answer, request

ROWS, TOKENS, CHANNELS, SIZE = 5, 16, 4, (64, 64)


def job(seed: int = 0, steps: int = 4, guidance: float = 2.0) -> Job:
    return Ticket(request(seed=seed, steps=steps, guidance=guidance), Answer()).jobs[0]


def state(value: float, steps: int = 4) -> RowState:
    """All numbers of it tell whose they are."""
    ramp = [value + step / 8 for step in range(steps)]
    schedule = Schedule(tuple(1000 + x for x in ramp), tuple(ramp), tuple(-x for x in ramp))
    return RowState(
        torch.full((TOKENS, CHANNELS), value), {"text": torch.full((3,), value), "pooled": -torch.ones(2)}, schedule
    )


def batch_of(count: int) -> tuple[LatentBatch, list[Job], dict[Job, RowState]]:
    jobs = [job(seed) for seed in range(count)]
    states = {one: state(float(one.seed)) for one in jobs}
    return LatentBatch(SIZE, ROWS, states[jobs[0]]), jobs, states


def owners(batch: LatentBatch) -> list[tuple[float, float]]:
    """(latents, conditioning) by row, each of which must be one number."""
    count = len(batch.jobs)
    latents, text = batch.latents(0, count), batch.conditioning(0, count)["text"]
    assert latents.shape == (count, TOKENS, CHANNELS)
    assert (latents == latents[:, :1, :1]).all()
    assert (text == text[:, :1]).all()
    return list(zip(latents[:, 0, 0].tolist(), text[:, 0].tolist(), strict=True))


def test_rows_are_those_of_the_jobs_without_gaps() -> None:
    batch, jobs, states = batch_of(4)
    batch.sync(jobs, states)
    assert batch.jobs == jobs
    assert owners(batch) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    batch.sync([jobs[0], jobs[3]], states)
    assert batch.jobs == [jobs[0], jobs[3]]
    assert owners(batch) == [(0, 0), (3, 3)]
    batch.sync([jobs[3]], states)
    assert owners(batch) == [(3, 3)]
    batch.sync([], states)
    assert batch.jobs == []


def test_controls_are_those_of_each_jobs_own_step() -> None:
    first, second = job(1, steps=2, guidance=1.5), job(2, steps=4, guidance=7.0)
    states = {first: state(1.0, 2), second: state(2.0, 4)}
    first.step, second.step = 1, 3
    batch = LatentBatch(SIZE, ROWS, states[first])
    batch.sync([first, second], states)
    timesteps, guidance, deltas = batch.controls(0, 2)
    assert [timesteps.tolist(), guidance.tolist(), deltas.tolist()] == [
        [1001.125, 1002.375],
        [1.5, 7.0],
        [-1.125, -2.375],
    ]
    assert batch.sigma(second) == 2.375
    assert [control.tolist() for control in batch.controls(1, 2)] == [[1002.375], [7.0], [-2.375]]
    assert timesteps.dtype is torch.float32


def test_who_leaves_and_is_still_wanted_takes_its_latents_along() -> None:
    batch, jobs, states = batch_of(2)
    batch.sync(jobs, states)
    batch.latents(0, 2).add_(100)
    batch.sync(jobs[1:], states)
    batch.latents(0, 1).add_(100)
    assert bool((states[jobs[0]].latents == 100).all())
    batch.sync(jobs, states)
    assert owners(batch) == [(201, 1), (100, 0)]


def test_nobody_copies_the_latents_of_who_is_not_wanted_any_more() -> None:
    batch, jobs, states = batch_of(2)
    gone = states[jobs[0]]
    batch.sync(jobs, states)
    batch.latents(0, 2).add_(100)
    del states[jobs[0]]
    batch.sync(jobs[1:], states)
    assert bool((gone.latents == 0).all())
    assert owners(batch) == [(101, 1)]


def test_its_memory_stays_the_same() -> None:
    batch, jobs, states = batch_of(ROWS)
    batch.sync(jobs, states)
    addresses = [batch.latents(0, 1).data_ptr(), *(part.data_ptr() for part in batch.conditioning(0, 1).values())]
    batch.sync(jobs[2:], states)
    batch.sync(jobs, states)
    again = [batch.latents(0, 1).data_ptr(), *(part.data_ptr() for part in batch.conditioning(0, 1).values())]
    assert again == addresses


def test_a_step_written_to_some_rows_is_theirs_alone() -> None:
    batch, jobs, states = batch_of(4)
    batch.sync(jobs, states)
    batch.latents(1, 3).add_(10)
    assert owners(batch) == [(0, 0), (11, 1), (12, 2), (3, 3)]


def test_whoever_comes_and_goes_each_keeps_its_own_numbers() -> None:
    choose = random.Random(3)
    batch, jobs, states = batch_of(8)
    expected = {one: float(one.seed) for one in jobs}
    for _ in range(300):
        members = choose.sample(jobs, choose.randint(0, ROWS))
        batch.sync(members, states)
        assert set(batch.jobs) == set(members)
        assert len(batch.jobs) == len(members)
        assert owners(batch) == [(expected[one], float(one.seed)) for one in batch.jobs]
        batch.latents(0, len(members)).add_(1)
        for one in members:
            expected[one] += 1
