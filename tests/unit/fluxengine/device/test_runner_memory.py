"""A runner that runs out of memory, and the memory that it keeps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from fluxengine.device.batches import KEPT_SIZES
from fluxengine.device.latent_batch import LatentBatch
from fluxengine.device.runner import Runner
from fluxengine.errors import OutOfMemory
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, text_value
from tests.unit.fluxengine.runners import MAX_BATCH, NO_MEMORY, draw, expected, make_jobs, no_room


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


def test_a_buffer_that_does_not_fit_fails_those_that_needed_it(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_jobs(2)
    runner.encode(jobs)

    def no_room(*_: object) -> None:
        raise NO_MEMORY[0]

    monkeypatch.setattr("fluxengine.device.batches.LatentBatch", no_room)
    assert {type(error) for error in runner.step(jobs).failures.values()} == {OutOfMemory}
    monkeypatch.undo()
    assert draw(runner, make_jobs(2)) == {}


def test_decoding_takes_as_many_as_fit(runner: Runner, family: ArithmeticFamily) -> None:
    def room_for_one(rows: int) -> None:
        if rows > 1:
            raise NO_MEMORY[0]

    family.on_decode = room_for_one
    assert draw(runner, make_jobs(4)) == {}


def test_memory_is_kept_for_a_few_sizes_only(runner: Runner) -> None:
    for n in range(3 * KEPT_SIZES):
        draw(runner, make_jobs(2, size=(64, 64 + 16 * n)))
    assert len(runner._batches._batches) == KEPT_SIZES
    assert runner._rows == {}


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
    address = runner._batches._batches[64, 64].latents.data_ptr()
    draw(runner, make_jobs(3))
    assert runner._batches._batches[64, 64].latents.data_ptr() == address


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
        if (128, 128) in runner._batches._batches:
            raise NO_MEMORY[0]

    family.on_predict = full_while_they_are_kept
    assert draw(runner, make_jobs(MAX_BATCH)) == {}
    assert runner._batches._fits == {}


def test_unused_buffers_go_before_a_new_one_is_refused(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(runner, make_jobs(2, size=(128, 128)))
    make_batch = LatentBatch

    def full_while_they_are_kept(*given: Any) -> LatentBatch:
        if (128, 128) in runner._batches._batches:
            raise NO_MEMORY[0]
        return make_batch(*given)

    monkeypatch.setattr("fluxengine.device.batches.LatentBatch", full_while_they_are_kept)
    assert draw(runner, make_jobs(2)) == {}


def test_a_batch_that_shrank_grows_again(
    runner: Runner, family: ArithmeticFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxengine.device.batches.TRY_MORE_AFTER", 5)
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
