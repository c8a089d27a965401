from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fluxengine import metrics as m
from fluxengine.config import EngineConfig
from fluxengine.device.step_cache import KNOWN_AFTER, Readback, StepReuse
from fluxengine.families.base import StepCacheRows
from fluxengine.load.checkpoint import load_family
from fluxengine.metrics import Metrics
from fluxengine.wire.picture_files import Picture
from fluxengine.wire.request import GenerateRequest
from tests.diffusers_reference import Reference
from tests.loras import save_random_lora
from tests.unit.fluxengine.answers import Answer, Gate, request
from tests.unit.fluxengine.engines import Engines
from tests.unit.fluxengine.reference import CONFIG, assert_same, difference, first_latents, start, start_gated
from tools.triton.installation import PROJECT

SIZE = (64, 96)
THRESHOLD = 0.9
"""Large: with random weights much changes from step to step."""

TINY = PROJECT / "model_repository" / "flux" / "1" / "flux-tiny"

LONG = request("a red fox", size=SIZE, steps=28, guidance=3.5, seed=11)


def decide(distances: Sequence[float], threshold: float) -> list[bool]:
    """What a row decides that is as far from its last computed step as given, step for step."""
    reuse = StepReuse(threshold)
    decisions = []
    for step, distance in enumerate(distances):
        decisions.append(reuse.reuses(step))
        assert reuse.reuses(step) is decisions[-1], "asking again changes nothing"
        reuse.stepped(step, decisions[-1], Readback(torch.tensor([math.nan, distance])), 1)
    return decisions


def test_the_first_steps_are_computed() -> None:
    assert decide([math.nan, 0.0, 0.0, 0.0, 0.0], 0.1) == [False] * (KNOWN_AFTER + 1) + [True, True]


def test_a_change_as_large_as_the_threshold_is_computed() -> None:
    assert decide([math.nan, 0.1, 0.1, 0.1], 0.1)[3] is False
    assert decide([math.nan, 0.099, 0.1, 0.1], 0.1)[3] is True


def test_the_change_adds_up_until_it_is_too_large() -> None:
    # 0.04 a step: 1, 2 steps after a computed one are below 0.1, 3 are not.
    rate, since, distances = 0.04, 0, [math.nan]
    expected = [False, False, False, True, True, False, True, True, False]
    for step in range(1, 9):
        distances.append(rate * (step - since))
        if not expected[step]:
            since = step
    assert decide(distances, 0.1) == expected


def test_a_change_that_is_no_number_is_computed() -> None:
    assert decide([math.nan] * 6, 0.1) == [False] * 6


def test_a_decision_uses_nothing_younger_than_two_steps() -> None:
    """Or it would have to wait for the device."""

    class Unread(Readback):
        def __getitem__(self, row: int) -> float:
            raise AssertionError("read too early")

    reuse = StepReuse(0.1)
    for step in range(4):
        reuse.reuses(step)
        reuse.stepped(step, False, (Unread if step >= 2 else Readback)(torch.tensor([0.01])), 0)
    with pytest.raises(AssertionError, match="too early"):
        reuse.reuses(4)


def draw(engines: Engines, folder: Path, *asked: GenerateRequest, **options: Any) -> list[Picture]:
    engine = start(engines, folder, step_cache=THRESHOLD, max_batch=8, **options)
    answers = [Answer() for _ in asked]
    for one, answer in zip(asked, answers, strict=True):
        engine.submit(one, answer)
    return [picture for answer in answers for picture in answer.completed().pictures]


def test_steps_are_saved_and_the_picture_stays_alike(engines: Engines) -> None:
    metrics = Metrics()
    asked = request("a large apple on a green background", size=(128, 128), steps=28, guidance=3.5)
    pictures = []
    for step_cache in (None, 0.08):
        config = EngineConfig(model=str(TINY), dtype="float32", step_cache=step_cache, num_threads=1)
        engine = engines.start(partial(load_family, config, Path(), torch.device("cpu")), config, metrics)
        metrics.drain()
        answer = Answer()
        engine.submit(asked, answer)
        pictures.append(answer.completed().pictures[0].astype(float))
    counters = metrics.drain().counters
    assert 8 <= counters[m.REUSED_STEPS, ""] <= 25
    assert counters[m.STEPS, ""] == 28
    error = (pictures[1] - pictures[0]).std() / pictures[0].std()
    assert 0 < error < 0.1


def test_nothing_is_reused_below_the_smallest_change(engines: Engines, checkpoint: Path) -> None:
    engine, answer = start(engines, checkpoint, step_cache=0.001), Answer()
    engine.submit(LONG, answer)
    assert_same(LONG, answer, Reference(checkpoint))


NEIGHBOURS = [
    request("two boats", size=SIZE, steps=28, guidance=1.0, seed=5),
    request("a house", size=SIZE, steps=9, guidance=8.0, seed=6),
    request("a tree", size=SIZE, steps=40, guidance=0.0, seed=7, negative_prompt="snow", true_cfg_scale=3.0),
    request("a tree", "x", size=SIZE, steps=15, guidance=2.0, seed=8, images=2),
]


def test_a_picture_does_not_depend_on_its_neighbours(engines: Engines, checkpoint: Path) -> None:
    (alone,) = draw(engines, checkpoint, LONG)
    (among_others, *_) = draw(engines, checkpoint, LONG, *NEIGHBOURS)
    assert difference(alone, among_others) <= 1
    assert difference(alone, Reference(checkpoint)(LONG.rows[0])) > 1, "the cache was at work"


def test_each_guided_half_has_its_own(engines: Engines, guided_checkpoint: Path) -> None:
    guided = NEIGHBOURS[2]
    (alone,) = draw(engines, guided_checkpoint, guided)
    *_, among_others = draw(engines, guided_checkpoint, LONG, *NEIGHBOURS[:2], guided)
    assert difference(alone, among_others) <= 1


def test_whenever_it_joins_and_whoever_leaves(engines: Engines, guided_checkpoint: Path, gate: Gate) -> None:
    (alone,) = draw(engines, guided_checkpoint, LONG)
    engine = start_gated(engines, guided_checkpoint, gate, step_cache=THRESHOLD, max_batch=2)
    gone, late, urgent = Answer(), Answer(), Answer()
    ticket = engine.submit(NEIGHBOURS[0], gone)
    gate.wait_for_calls(1)
    engine.submit(replace(LONG, priority=4, arrival_s=time.monotonic()), late)
    gate.let(6)
    engine.cancel(ticket)  # row 0: the other takes its place
    gate.let(2)
    engine.submit(replace(NEIGHBOURS[3], priority=1), urgent)  # four images: it gives up its place for a while
    gate.open()
    assert difference(alone, late.completed().pictures[0]) <= 1
    urgent.completed()


def test_loras_of_the_rows_that_are_computed(engines: Engines, guided_checkpoint: Path, tmp_path: Path) -> None:
    save_random_lora(guided_checkpoint, tmp_path, "one", seed=1)
    with_lora = request("a red fox", size=SIZE, steps=28, guidance=3.5, seed=11, loras=(("one", 0.5),))
    (alone,) = draw(engines, guided_checkpoint, with_lora, lora_dir=str(tmp_path))
    among_others, *_ = draw(engines, guided_checkpoint, with_lora, LONG, *NEIGHBOURS, lora_dir=str(tmp_path))
    assert difference(alone, among_others) <= 1


def test_a_call_that_fails_can_be_made_again(guided_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may run out at any point of a call: nothing may have been written to the cache by then."""
    with torch.inference_mode():
        family: Any = load_family(replace(CONFIG, model=str(guided_checkpoint)), Path(), torch.device("cpu"))
        (conditioning,) = family.encode(family.tokenize(["a fox"]))
        batch = {name: tensor[None].repeat(2, *[1] * tensor.ndim) for name, tensor in conditioning.items()}
        latents = torch.stack([first_latents(family, SIZE, seed) for seed in (1, 2)])
        shape = (2, *family.step_cache_shape(SIZE))
        first, rest = torch.randn(shape), torch.randn(shape)
        before = first.clone(), rest.clone()
        rows = StepCacheRows([True, False], first, rest, torch.zeros(2))
        levels = torch.full((2,), 500.0), torch.full((2,), 3.5)
        with monkeypatch.context() as patch:
            patch.setattr(family.pipeline.transformer.proj_out, "forward", _no_memory)
            with pytest.raises(torch.OutOfMemoryError):
                family.predict(SIZE, latents, *levels, batch, [(), ()], rows)
        assert torch.equal(first, before[0]) and torch.equal(rest, before[1])
        family.predict(SIZE, latents, *levels, batch, [(), ()], rows)
        assert torch.equal(first[0], before[0][0]) and not torch.equal(first[1], before[0][1])


def _no_memory(_: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_its_parts_are_those_of_the_transformer(checkpoint: Path) -> None:
    """With no row reusing anything, the result is that of the transformer itself."""
    with torch.inference_mode():
        family: Any = load_family(replace(CONFIG, model=str(checkpoint)), Path(), torch.device("cpu"))
        conditionings = family.encode(family.tokenize(["a fox", "two boats"]))
        batch = {name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]}
        latents = torch.stack([first_latents(family, SIZE, seed) for seed in (1, 2)])
        levels = torch.tensor([900.0, 300.0]), torch.tensor([1.0, 7.0])
        shape = (2, *family.step_cache_shape(SIZE))
        rows = StepCacheRows([False, False], torch.zeros(shape), torch.zeros(shape), torch.zeros(2))
        plain = family.predict(SIZE, latents, *levels, batch)
        assert torch.equal(family.predict(SIZE, latents, *levels, batch, [(), ()], rows), plain)
        assert np.isfinite(rows.first.numpy()).all()
        # Now all reuse what this very step gave: the same again, but for rounding.
        rows = replace(rows, reuse=[True, True])
        again = family.predict(SIZE, latents, *levels, batch, [(), ()], rows)
        assert torch.allclose(again, plain, atol=1e-5)
        assert torch.equal(rows.distances, torch.zeros(2))
