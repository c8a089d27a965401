"""A picture depends on its request alone: it is what FluxPipeline of diffusers draws, whoever shares the batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluxengine.errors import Cancelled
from tests.diffusers_reference import Reference
from tests.unit.fluxengine.answers import Answer, Gate, request
from tests.unit.fluxengine.engines import Engines
from tests.unit.fluxengine.reference import assert_same, difference, start, start_gated

ONE = request("a red fox", size=(64, 96), steps=5, guidance=3.5, seed=11)


def test_every_row_of_a_mixed_batch(
    engines: Engines, checkpoint: Path, references: Callable[[Path], Reference]
) -> None:
    engine = start(engines, checkpoint)
    asked = [
        request("a red fox", size=(64, 96), steps=5, guidance=3.5, seed=11),
        request("two boats", size=(64, 96), steps=3, guidance=0.0, seed=0),
        request("a house, far away", "a tree", size=(64, 96), steps=8, guidance=9.5, seed=2**62),
        request("a red fox", size=(96, 64), steps=1, guidance=1.0, seed=11),
        request("x", size=(128, 128), steps=4, guidance=30.0, seed=3, images=2),
    ]
    answers = [Answer() for _ in asked]
    for one, answer in zip(asked, answers, strict=True):
        engine.submit(one, answer)
    for one, answer in zip(asked, answers, strict=True):
        assert_same(one, answer, references(checkpoint))
    batches = [float(str(answer.completed().infos[0]["mean_batch"])) for answer in answers[:3]]
    assert min(batches) > 1.5, "they did share batches"


@pytest.mark.parametrize("scheduling", ["static", "serial"])
def test_other_modes(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], scheduling: str
) -> None:
    engine = start(engines, guided_checkpoint, scheduling=scheduling)
    asked = [replace(ONE, rows=(replace(ONE.rows[0], prompt=f"a fox {n}", seed=n),)) for n in range(3)]
    answers = [Answer() for _ in asked]
    for one, answer in zip(asked, answers, strict=True):
        engine.submit(one, answer)
    for one, answer in zip(asked, answers, strict=True):
        assert_same(one, answer, references(guided_checkpoint))


def test_alone(engines: Engines, checkpoint: Path, references: Callable[[Path], Reference]) -> None:
    engine, answer, again = start(engines, checkpoint), Answer(), Answer()
    engine.submit(ONE, answer)
    assert_same(ONE, answer, references(checkpoint))
    engine.submit(ONE, again)
    assert np.array_equal(again.completed().pictures[0], answer.completed().pictures[0])


def test_joining_late(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], gate: Gate
) -> None:
    engine, first, late = start_gated(engines, guided_checkpoint, gate), Answer(), Answer()
    other = request("two boats", size=(64, 96), steps=6, guidance=1.0, seed=5)
    engine.submit(other, first)
    gate.wait_for_calls(1)
    gate.let(3)
    engine.submit(ONE, late)
    gate.open()
    assert_same(ONE, late, references(guided_checkpoint))
    assert_same(other, first, references(guided_checkpoint))
    assert gate.rows == [1] * 4 + [2] * 2 + [1] * 3


def test_while_a_neighbour_is_cancelled(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], gate: Gate
) -> None:
    engine, gone, stays, last = start_gated(engines, guided_checkpoint, gate), Answer(), Answer(), Answer()
    other = request("two boats", size=(64, 96), steps=6, guidance=1.0, seed=5)
    ticket = engine.submit(request("nothing", size=(64, 96), steps=9), gone)
    gate.wait_for_calls(1)
    engine.submit(ONE, stays)
    gate.let(1)
    engine.submit(other, last)
    gate.let(2)
    engine.cancel(ticket)  # row 0: the last row of the batch takes its place
    gate.open()
    assert isinstance(gone.failure(), Cancelled)
    assert_same(ONE, stays, references(guided_checkpoint))
    assert_same(other, last, references(guided_checkpoint))
    assert gate.rows[:5] == [1, 2, 3, 3, 2]


def test_after_giving_up_its_place_to_a_more_urgent_one(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], gate: Gate
) -> None:
    engine, pushed_out, urgent = start_gated(engines, guided_checkpoint, gate, max_batch=1), Answer(), Answer()
    other = replace(request("two boats", size=(64, 96), steps=2, guidance=1.0, seed=5), priority=1)
    patient = replace(ONE, priority=4, arrival_s=time.monotonic(), progress=True)
    engine.submit(patient, pushed_out)
    gate.wait_for_calls(1)
    gate.let(1)
    engine.submit(other, urgent)
    gate.let(1)
    pushed_out.wait_for_step(2)
    gate.open()
    assert_same(other, urgent, references(guided_checkpoint))
    assert [progress.steps for progress in pushed_out.progressed][:2] == [(1,), (2,)]
    assert_same(patient, pushed_out, references(guided_checkpoint))
    assert pushed_out.completed().infos[0]["mean_batch"] == 1.0


def test_bfloat16_alone(engines: Engines, checkpoint: Path) -> None:
    engine, answer = start(engines, checkpoint, dtype="bfloat16"), Answer()
    engine.submit(ONE, answer)
    (picture,) = answer.completed().pictures
    reference = Reference(checkpoint, torch.bfloat16)
    assert difference(picture, reference(ONE.rows[0])) == 0
    reference = Reference(checkpoint, torch.bfloat16)
    reference.pipeline.vae.to(memory_format=torch.contiguous_format)  # as diffusers loads it
    assert difference(picture, reference(ONE.rows[0])) <= 8, "6 were the most that was seen in 80 pictures"
