from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fluxengine.config import EngineConfig
from fluxengine.device.failures import DeviceLost
from fluxengine.device.runner import Runner
from fluxengine.device.step_cache import StepReuse
from fluxengine.errors import Internal
from fluxengine.job import Job
from fluxengine.wire.picture_files import Picture
from tests.unit.fluxengine.arithmetic import ArithmeticFamily, guess_level, text_value
from tests.unit.fluxengine.runners import MAX_BATCH, draw, expected, make_jobs, no_room


def test_each_row_of_a_mixed_batch_is_its_own_picture(runner: Runner) -> None:
    assert draw(runner, make_jobs(MAX_BATCH)) == {}


def test_a_prompt_is_encoded_once(runner: Runner, family: ArithmeticFamily) -> None:
    seen: list[str] = []
    family.on_encode = seen.extend
    first, second, third = make_jobs(3)
    second.prompts = first.prompts
    assert runner.encode([first, second, third]) == {}
    assert seen == [first.prompts[0], third.prompts[0]]
    assert (runner.prompts.hits, runner.prompts.misses) == (1, 2)
    runner.encode(make_jobs(3))
    assert seen == ["p0", "p2", "p1"]
    assert (runner.prompts.hits, runner.prompts.misses) == (3, 3)


def test_without_a_cache_everything_works_too(family: ArithmeticFamily) -> None:
    runner = Runner(family, EngineConfig(max_batch=MAX_BATCH, prompt_cache_entries=0))
    assert draw(runner, make_jobs(4)) == {}
    assert draw(runner, make_jobs(4)) == {}
    assert (runner.prompts.hits, runner.prompts.misses) == (0, 8)


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
    runner = Runner(family, EngineConfig(max_batch=MAX_BATCH, preview_size=preview_size))
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
    runner = Runner(family, EngineConfig(max_batch=MAX_BATCH, step_cache=0.5))
    jobs = make_jobs(2)
    runner.encode(jobs)
    monkeypatch.setattr("fluxengine.device.step_cache.Readback", no_room)
    assert runner.step(jobs).failures == {}
    assert runner._rows[jobs[0]][0].reuse == StepReuse(0.5)
