from __future__ import annotations

import random

import pytest
import torch

from fluxengine.device.latent_batch import LatentBatch, RowState
from fluxengine.device.step_cache import StepReuse
from fluxengine.families.base import Schedule
from fluxengine.job import Job, Ticket
from tests.unit.fluxengine.answers import Answer, request

ROWS, TOKENS, CHANNELS, SIZE = 5, 16, 4, (64, 64)
CACHED = (TOKENS, 7)


def job(seed: int = 0, steps: int = 4, guidance: float = 2.0) -> Job:
    return Ticket(request(seed=seed, steps=steps, guidance=guidance), Answer()).jobs[0]


def row(value: float, steps: int = 4, guidance: float = 2.0) -> RowState:
    """All numbers of it tell whose they are."""
    ramp = [value + step / 8 for step in range(steps)]
    schedule = Schedule(tuple(1000 + x for x in ramp), tuple(ramp), tuple(-x for x in ramp))
    conditioning = {"text": torch.full((3,), value), "pooled": -torch.ones(2)}
    one = RowState(
        job(int(value), steps, guidance),
        torch.full((TOKENS, CHANNELS), value),
        conditioning,
        schedule,
        reuse=StepReuse(0.1),
    )
    one.kept = torch.full(CACHED, value), torch.full(CACHED, -value)
    return one


def batch_of(count: int) -> tuple[LatentBatch, list[RowState], set[Job]]:
    rows = [row(float(value)) for value in range(count)]
    return LatentBatch(SIZE, ROWS, rows[0], CACHED), rows, {one.job for one in rows}


def owners(batch: LatentBatch) -> list[tuple[float, float]]:
    """(latents, conditioning) by row, each of which must be one number; the step cache must be the same row's."""
    count = len(batch.rows)
    latents, text, cached = batch.latents[:count], batch.conditioning(0, count)["text"], batch.cached(0, count, [])
    assert cached is not None
    assert latents.shape == (count, TOKENS, CHANNELS)
    assert (latents == latents[:, :1, :1]).all()
    assert (text == text[:, :1]).all()
    assert (cached.first == text[:, :1, None]).all()
    assert (cached.rest == -text[:, :1, None]).all()
    return list(zip(latents[:, 0, 0].tolist(), text[:, 0].tolist(), strict=True))


def test_rows_are_without_gaps() -> None:
    batch, rows, wanted = batch_of(4)
    batch.sync(rows, wanted)
    assert batch.rows == rows
    assert owners(batch) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    batch.sync([rows[0], rows[3]], wanted)
    assert batch.rows == [rows[0], rows[3]]
    assert owners(batch) == [(0, 0), (3, 3)]
    assert [batch.place(one) for one in batch.rows] == [0, 1]
    batch.sync([rows[3]], wanted)
    assert owners(batch) == [(3, 3)]
    batch.sync([], wanted)
    assert batch.rows == []


def test_controls_are_those_of_each_jobs_own_step() -> None:
    first, second = row(1.0, steps=2, guidance=1.5), row(2.0, steps=4, guidance=7.0)
    first.job.step, second.job.step = 1, 3
    batch = LatentBatch(SIZE, ROWS, first, None)
    batch.sync([first, second], {first.job, second.job})
    timesteps, guidance, deltas = batch.controls()
    assert [timesteps.tolist(), guidance.tolist(), deltas.tolist()] == [
        [1001.125, 1002.375],
        [1.5, 7.0],
        [-1.125, -2.375],
    ]
    assert timesteps.dtype is torch.float32


def test_who_leaves_and_is_still_wanted_takes_its_latents_along() -> None:
    batch, rows, wanted = batch_of(2)
    batch.sync(rows, wanted)
    batch.latents[:2].add_(100)
    batch.sync(rows[1:], wanted)
    batch.latents[:1].add_(100)
    assert bool((rows[0].latents == 100).all())
    batch.sync(rows, wanted)
    assert owners(batch) == [(201, 1), (100, 0)]


def test_nobody_copies_the_latents_of_who_is_not_wanted_any_more() -> None:
    batch, rows, wanted = batch_of(2)
    batch.sync(rows, wanted)
    batch.latents[:2].add_(100)
    batch.sync(rows[1:], wanted - {rows[0].job})
    assert bool((rows[0].latents == 0).all())
    assert owners(batch) == [(101, 1)]


def test_its_memory_stays_the_same() -> None:
    batch, rows, wanted = batch_of(ROWS)

    def addresses() -> list[int]:
        return [batch.latents.data_ptr(), *(part.data_ptr() for part in batch.conditioning(0, 1).values())]

    batch.sync(rows, wanted)
    before = addresses()
    batch.sync(rows[2:], wanted)
    batch.sync(rows, wanted)
    assert addresses() == before


def test_without_a_step_cache_nothing_is_kept_for_one() -> None:
    one = row(1.0)
    batch = LatentBatch(SIZE, ROWS, one, None)
    batch.sync([one], {one.job})
    assert batch.cached(0, 1, []) is None


def test_whoever_comes_and_goes_each_keeps_its_own_numbers() -> None:
    choose = random.Random(3)
    batch, rows, wanted = batch_of(8)
    expected = {one: float(value) for value, one in enumerate(rows)}
    for _ in range(300):
        members = choose.sample(rows, choose.randint(0, ROWS))
        batch.sync(members, wanted)
        assert set(batch.rows) == set(members)
        assert len(batch.rows) == len(members)
        assert owners(batch) == [(expected[one], float(one.job.seed)) for one in batch.rows]
        batch.latents[: len(members)].add_(1)
        for one in members:
            expected[one] += 1


def test_memory_that_runs_out_while_a_row_leaves_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, rows, wanted = batch_of(3)
    batch.sync(rows, wanted)

    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "clone", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        batch.sync(rows[1:], wanted)
    monkeypatch.undo()
    assert owners(batch) == [(0, 0), (1, 1), (2, 2)]
    batch.sync(rows[1:], wanted)
    assert sorted(owners(batch)) == [(1, 1), (2, 2)]


def test_who_has_finished_takes_nothing_of_the_step_cache_along() -> None:
    batch, rows, wanted = batch_of(2)
    batch.sync(rows, wanted)
    rows[0].job.step = rows[0].job.total_steps
    batch.sync([], wanted)
    assert rows[0].kept is None
    assert rows[1].kept is not None
