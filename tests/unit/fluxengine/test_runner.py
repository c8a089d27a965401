from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fluxengine.errors import FluxError, Internal, OutOfMemory
from fluxengine.job import Job
from fluxengine.latent_batch import LatentBatch
from fluxengine.pictures import Picture
from fluxengine.prompt_cache import PromptCache
from fluxengine.runner import KEPT_SIZES, DeviceLost, Runner
from fluxengine.ticket import Ticket
from tests.unit.fluxengine.answers import Answer, request
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, guess_level, level, text_value

MAX_BATCH = 8
NO_MEMORY = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 9 GB")]


class Memory:
    """As `on_predict`: a device with room for so many rows; remembers the rows of the calls that fitted."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows = rows
        self.fitted: list[int] = []
        self.refused: list[int] = []
        self._error = error

    def __call__(self, texts: list[int]) -> None:
        (self.fitted if len(texts) <= self.rows else self.refused).append(len(texts))
        if len(texts) > self.rows:
            raise self._error


@pytest.fixture
def family() -> ArithmeticFamily:
    return ArithmeticFamily()


@pytest.fixture
def runner(family: ArithmeticFamily) -> Runner:
    return Runner(family, MAX_BATCH, PromptCache(100), preview_size=None)


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


def test_each_row_of_a_mixed_batch_is_its_own_picture(runner: Runner) -> None:
    assert draw(runner, make_jobs(MAX_BATCH)) == {}


def test_a_prompt_is_encoded_once(runner: Runner, family: ArithmeticFamily) -> None:
    seen: list[str] = []
    family.on_encode = seen.extend
    first, second, third = make_jobs(3)
    second.prompts = first.prompts
    assert runner.encode([first, second, third]) == {}
    assert seen == [first.prompts[0], third.prompts[0]]
    assert (runner.cache_hits, runner.cache_misses) == (1, 2)
    runner.encode(make_jobs(3))
    assert seen == ["p0", "p2", "p1"]
    assert (runner.cache_hits, runner.cache_misses) == (3, 3)


def test_without_a_cache_everything_works_too(family: ArithmeticFamily) -> None:
    runner = Runner(family, MAX_BATCH, PromptCache(0), preview_size=None)
    assert draw(runner, make_jobs(4)) == {}
    assert draw(runner, make_jobs(4)) == {}
    assert (runner.cache_hits, runner.cache_misses) == (0, 8)


def test_a_prompt_that_cannot_be_encoded_fails_alone(runner: Runner, family: ArithmeticFamily) -> None:
    def poison(prompts: Sequence[str]) -> None:
        if "p2" in prompts:
            raise ValueError("a strange token")

    family.on_encode = poison
    jobs = make_jobs(6)
    failures = draw(runner, jobs)
    assert list(failures) == [jobs[2]]
    assert isinstance(failures[jobs[2]], Internal)
    assert str(failures[jobs[2]]) == "model: ValueError: a strange token"


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("fits", [1, 3, 4, 7])
def test_out_of_memory_shrinks_the_batch_and_all_finish(
    runner: Runner, family: ArithmeticFamily, fits: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    memory = family.on_predict = Memory(fits, error)
    with caplog.at_level(logging.WARNING, logger="fluxengine"):
        assert draw(runner, make_jobs(MAX_BATCH)) == {}
    assert sum(memory.fitted) == 3 * MAX_BATCH, "each row stepped exactly once a step"
    assert "out of memory at a batch of 8 for 64x64: going on with 4" in caplog.text

    refused = len(memory.refused)
    assert draw(runner, make_jobs(MAX_BATCH)) == {}
    assert len(memory.refused) == refused, "the limit was forgotten"


def test_a_smaller_size_keeps_its_own_limit(runner: Runner, family: ArithmeticFamily) -> None:
    memory = family.on_predict = Memory(4, NO_MEMORY[0])
    draw(runner, make_jobs(MAX_BATCH, size=(128, 128)))
    memory.rows = MAX_BATCH
    memory.fitted.clear()
    draw(runner, make_jobs(MAX_BATCH))
    assert memory.fitted == [MAX_BATCH] * 3
    memory.fitted.clear()
    draw(runner, make_jobs(MAX_BATCH, size=(128, 128)))
    assert set(memory.fitted) == {4}


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_a_picture_with_no_room_even_alone_fails_alone(
    runner: Runner, family: ArithmeticFamily, error: Exception
) -> None:
    greedy = text_value("p3")

    def greed(texts: list[int]) -> None:
        if greedy in texts:
            raise error

    family.on_predict = greed
    jobs = make_jobs(5)
    failures = draw(runner, jobs)
    assert list(failures) == [jobs[3]]
    assert isinstance(failures[jobs[3]], OutOfMemory)
    assert "no memory for this picture even alone" in str(failures[jobs[3]])


@pytest.mark.parametrize("poisoned", [[0], [3], [7], [1, 6], list(range(8))], ids=str)
def test_a_row_that_cannot_be_stepped_harms_no_other(
    runner: Runner, family: ArithmeticFamily, poisoned: list[int]
) -> None:
    poison = {text_value(f"p{n}") for n in poisoned}

    def fail(texts: list[int]) -> None:
        if poison & set(texts):
            raise ValueError("a strange number")

    family.on_predict = fail
    jobs = make_jobs(MAX_BATCH)
    failures = draw(runner, jobs)
    assert list(failures) == [jobs[n] for n in poisoned]
    assert {str(error) for error in failures.values()} == {"model: ValueError: a strange number"}


def test_a_poison_row_does_not_shrink_the_batch(runner: Runner, family: ArithmeticFamily) -> None:
    calls: list[int] = []

    def fail(texts: list[int]) -> None:
        calls.append(len(texts))
        if text_value("p0") in texts:
            raise ValueError("a strange number")

    family.on_predict = fail
    draw(runner, make_jobs(MAX_BATCH))
    calls.clear()
    draw(runner, make_jobs(MAX_BATCH)[1:])
    assert calls == [MAX_BATCH - 1] * 3


def test_a_buffer_that_does_not_fit_fails_those_that_needed_it(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_jobs(2)
    runner.encode(jobs)

    def no_room(*_: object) -> None:
        raise NO_MEMORY[0]

    monkeypatch.setattr("fluxengine.runner.LatentBatch", no_room)
    assert {type(error) for error in runner.step(jobs).failures.values()} == {OutOfMemory}
    monkeypatch.undo()
    assert draw(runner, make_jobs(2)) == {}


def test_a_picture_that_cannot_be_decoded_fails_alone(runner: Runner, family: ArithmeticFamily) -> None:
    left = 3

    def fail_three_times(rows: int) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise ValueError("a strange picture")

    family.on_decode = fail_three_times  # 4 rows, then the first 2, then the first alone
    jobs = make_jobs(4)
    failures = draw(runner, jobs)
    assert {job: type(error) for job, error in failures.items()} == {jobs[0]: Internal}


def test_decoding_takes_as_many_as_fit(runner: Runner, family: ArithmeticFamily) -> None:
    def room_for_one(rows: int) -> None:
        if rows > 1:
            raise NO_MEMORY[0]

    family.on_decode = room_for_one
    assert draw(runner, make_jobs(4)) == {}


@pytest.mark.parametrize("where", ["on_encode", "on_predict", "on_decode"])
def test_a_lost_device_is_not_the_fault_of_a_row(runner: Runner, family: ArithmeticFamily, where: str) -> None:
    def lose(_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    setattr(family, where, lose)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        draw(runner, make_jobs(4))


def test_previews_at_their_interval(runner: Runner, family: ArithmeticFamily) -> None:
    jobs = make_jobs(3, steps=5)
    jobs[0].preview_interval, jobs[1].preview_interval = 2, 3
    runner.encode(jobs)
    seen: dict[int, dict[Job, Picture]] = {}
    for step in range(1, 6):
        seen[step] = runner.step(jobs).previews
    assert {step: list(previews) for step, previews in seen.items() if previews} == {
        2: [jobs[0]],
        3: [jobs[1]],
        4: [jobs[0]],
    }
    for step, previews in seen.items():
        for job, picture in previews.items():
            wanted = guess_level(job.prompts[0], 5, job.guidance_scale, job.seed, step)
            assert np.unique(picture).tolist() == [wanted]
            assert picture.shape == (32, 32, 3), "half the size of the picture"


@pytest.mark.parametrize(("preview_size", "shape"), [(None, (64, 256, 3)), (64, (16, 64, 3)), (1024, (128, 512, 3))])
def test_the_size_of_previews(family: ArithmeticFamily, preview_size: int | None, shape: tuple[int, ...]) -> None:
    runner = Runner(family, MAX_BATCH, PromptCache(9), preview_size)
    jobs = make_jobs(1, size=(128, 512), preview_interval=1)
    runner.encode(jobs)
    assert runner.step(jobs).previews[jobs[0]].shape == shape


def test_a_preview_that_fails_costs_nothing_but_itself(
    runner: Runner, family: ArithmeticFamily, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(rows: int) -> None:
        raise ValueError("a strange preview")

    family.on_preview = fail
    with caplog.at_level(logging.WARNING, logger="fluxengine"):
        assert draw(runner, make_jobs(3, preview_interval=1)) == {}
    assert "no preview for seed 10" in caplog.text


def test_who_left_for_a_while_goes_on_where_it_was(runner: Runner) -> None:
    first, second, third = make_jobs(3, steps=4)
    runner.encode([first, second, third])
    for members in ([first, second], [second, third], [third], [first, third], [second, first, third]):
        assert runner.step(members).failures == {}
    assert [job.step for job in (first, second, third)] == [3, 3, 4]
    runner.step([second, first])
    pictures, failures = runner.decode([third, first, second])
    assert failures == {}
    assert {job: picture.max() for job, picture in pictures.items()} == {
        job: expected(job) for job in (first, second, third)
    }


def test_memory_is_kept_for_a_few_sizes_only(runner: Runner) -> None:
    for n in range(3 * KEPT_SIZES):
        draw(runner, make_jobs(2, size=(64, 64 + 16 * n)))
    assert len(runner._batches) == KEPT_SIZES
    assert runner._states == {}


def test_sizes_in_flight_keep_their_memory(runner: Runner) -> None:
    lots = [make_jobs(2, size=(64, 64 + 16 * n)) for n in range(2 * KEPT_SIZES)]
    for lot in lots:
        runner.encode(lot)
    for _ in range(3):
        for lot in lots:
            assert runner.step(lot).failures == {}
    for lot in lots:
        pictures, _ = runner.decode(lot)
        assert {job: picture.max() for job, picture in pictures.items()} == {job: expected(job) for job in lot}


def test_a_step_allocates_no_new_batch(runner: Runner) -> None:
    draw(runner, make_jobs(MAX_BATCH))
    address = runner._batches[64, 64].latents.data_ptr()
    draw(runner, make_jobs(3))
    assert runner._batches[64, 64].latents.data_ptr() == address


def no_room(*_: object, **__: object) -> None:
    raise NO_MEMORY[0]


def test_a_finished_picture_that_finds_no_room_harms_no_other(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    (last_step,) = make_jobs(1, steps=1)
    others = make_jobs(3)[1:]
    runner.encode([last_step, *others])
    monkeypatch.setattr(torch.Tensor, "clone", no_room)
    assert {job: type(error) for job, error in runner.step([last_step, *others]).failures.items()} == {
        last_step: OutOfMemory
    }
    monkeypatch.undo()
    runner.release(last_step)
    for _ in range(2):
        assert runner.step(others).failures == {}
    pictures, _ = runner.decode(others)
    assert {job: picture.max() for job, picture in pictures.items()} == {job: expected(job) for job in others}


def test_unused_buffers_go_before_the_batch_shrinks(runner: Runner, family: ArithmeticFamily) -> None:
    draw(runner, make_jobs(2, size=(128, 128)))

    def full_while_they_are_kept(texts: list[int]) -> None:
        if (128, 128) in runner._batches:
            raise NO_MEMORY[0]

    family.on_predict = full_while_they_are_kept
    assert draw(runner, make_jobs(MAX_BATCH)) == {}
    assert runner._fits == {}


def test_unused_buffers_go_before_a_new_one_is_refused(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(runner, make_jobs(2, size=(128, 128)))
    make_batch = LatentBatch

    def full_while_they_are_kept(*given: Any) -> LatentBatch:
        if (128, 128) in runner._batches:
            raise NO_MEMORY[0]
        return make_batch(*given)

    monkeypatch.setattr("fluxengine.runner.LatentBatch", full_while_they_are_kept)
    assert draw(runner, make_jobs(2)) == {}


def test_a_batch_that_shrank_grows_again(
    runner: Runner, family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxengine.runner.TRY_MORE_AFTER", 5)
    memory = family.on_predict = Memory(2, NO_MEMORY[0])
    draw(runner, make_jobs(MAX_BATCH))
    memory.rows = MAX_BATCH
    memory.fitted.clear()
    assert draw(runner, make_jobs(MAX_BATCH, steps=12)) == {}
    assert memory.fitted[:4] == [2] * 4
    assert memory.fitted[-1] == MAX_BATCH
    assert sorted(set(memory.fitted)) == [2, 4, MAX_BATCH]


def test_memory_that_runs_out_in_cuda_itself_is_no_lost_device(runner: Runner, family: ArithmeticFamily) -> None:
    def room_for_two(texts: list[int]) -> None:
        if len(texts) > 2:
            raise torch.AcceleratorError("CUDA error: out of memory")

    family.on_predict = room_for_two
    assert draw(runner, make_jobs(MAX_BATCH)) == {}


def test_a_launch_that_the_device_survives_fails_its_row(
    runner: Runner, family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)

    def poison(texts: list[int]) -> None:
        if text_value("p1") in texts:
            raise torch.AcceleratorError("CUDA error: invalid configuration argument")

    family.on_predict = poison
    jobs = make_jobs(3)
    assert {job: type(error) for job, error in draw(runner, jobs).items()} == {jobs[1]: Internal}


def test_a_measurement_that_fails_makes_the_next_step_a_full_one(
    family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "step_cache_shape", lambda size: (1, 1))
    runner = Runner(family, MAX_BATCH, PromptCache(9), None, step_cache=0.5)
    jobs = make_jobs(2)
    runner.encode(jobs)
    monkeypatch.setattr("fluxengine.runner.Readback", no_room)
    before = runner._states[jobs[0]][0].reuse
    assert runner.step(jobs).failures == {}
    assert runner._states[jobs[0]][0].reuse is not before
