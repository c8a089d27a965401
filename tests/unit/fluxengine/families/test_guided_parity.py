"""Negative prompts and image to image, in one batch with each other and with plain requests."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxengine.errors import InvalidArgument, OutOfMemory
from fluxengine.size import Size
from fluxengine.wire.request import GenerateRequest
from tests.diffusers_reference import Reference
from tests.unit.fluxengine.answers import Answer, Gate, request
from tests.unit.fluxengine.engines import Engines
from tests.unit.fluxengine.reference import assert_same, difference, start, start_gated

SIZE = (64, 96)


def picture_file(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (150, 70)) -> bytes:
    """Stripes and a ramp, so that any turn or shift would show."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    pixels = np.stack([across, down, (across // 32 % 2) * 255], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


ASKED = [
    request("a red fox", size=SIZE, steps=5, guidance=3.5, seed=11),
    request("a red fox", size=SIZE, steps=5, guidance=3.5, seed=11, negative_prompt="snow", true_cfg_scale=4.0),
    request("two boats", size=SIZE, steps=4, guidance=1.0, seed=5, negative_prompt="", true_cfg_scale=2.5),
    request("two boats", size=SIZE, steps=4, guidance=1.0, seed=5, negative_prompt="snow", true_cfg_scale=1.0),
    request("a red fox", size=SIZE, steps=6, guidance=3.5, seed=11, image=picture_file(), strength=0.5),
    request("a red fox", size=SIZE, steps=7, guidance=3.5, seed=12, image=picture_file("JPEG", "L"), strength=0.95),
    request("a red fox", size=SIZE, steps=3, guidance=3.5, seed=13, image=picture_file("WEBP", "RGBA"), strength=1.0),
    request(
        *("a tree", "a house"), size=SIZE, steps=5, guidance=2.0, seed=1, images=2,
        image=picture_file(), strength=0.7, negative_prompt="snow", true_cfg_scale=3.0,
    ),
]  # fmt: skip


@pytest.mark.parametrize("scheduling", ["continuous", "static", "serial"])
def test_all_kinds_share_batches(
    engines: Engines, checkpoint: Path, references: Callable[[Path], Reference], scheduling: str
) -> None:
    engine = start(engines, checkpoint, max_batch=16, scheduling=scheduling)
    answers = [Answer() for _ in ASKED]
    for one, answer in zip(ASKED, answers, strict=True):
        engine.submit(one, answer)
    for one, answer in zip(ASKED, answers, strict=True):
        assert_same(one, answer, references(checkpoint))
    plain, guided, _, without, from_image, *_ = (answer.completed() for answer in answers)
    assert difference(plain.pictures[0], guided.pictures[0]) > 20, "guidance did something"
    assert difference(plain.pictures[0], from_image.pictures[0]) > 20, "so did the image"
    assert "true_cfg_scale" not in without.infos[0]
    assert (guided.infos[0]["true_cfg_scale"], from_image.infos[0]["strength"]) == (4.0, 0.5)
    if scheduling == "continuous":
        assert float(str(guided.infos[0]["mean_batch"])) > 2, "they did share batches"


def test_all_kinds_in_bfloat16(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference]
) -> None:
    """Alone each is what diffusers draws in bfloat16, and in company it stays near that."""
    engine = start(engines, guided_checkpoint, max_batch=16, dtype="bfloat16")
    reference, in_float32 = Reference(guided_checkpoint, torch.bfloat16), references(guided_checkpoint)
    asked = [ASKED[n] for n in (0, 1, 4, 5)]
    answers = [Answer() for _ in asked]
    for one in asked:
        alone = Answer()
        engine.submit(one, alone)
        assert difference(alone.completed().pictures[0], reference(one.rows[0])) <= 1
    for one, answer in zip(asked, answers, strict=True):
        engine.submit(one, answer)
    for one, answer in zip(asked, answers, strict=True):
        assert_same(one, answer, reference)
    assert float(str(answers[0].completed().infos[0]["mean_batch"])) > 2, "they did share batches"
    distances = [difference(reference(one.rows[0]), in_float32(one.rows[0])) for one in asked]
    assert max(distances) > 2 * reference.levels, "float32 would be noticed"


def test_steps_are_those_that_are_done(engines: Engines, guided_checkpoint: Path) -> None:
    engine, answer = start(engines, guided_checkpoint), Answer()
    engine.submit(request(size=SIZE, steps=10, image=picture_file(), strength=0.35, progress=True), answer)
    assert answer.completed().infos[0]["steps"] == 10
    assert [(one.steps[0], one.totals[0]) for one in answer.progressed] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_two_rows_of_a_job_come_and_go_together(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], gate: Gate
) -> None:
    """Rows are those of the transformer: at most max_batch."""
    engine = start_gated(engines, guided_checkpoint, gate, max_batch=3)
    now_s = time.monotonic()
    guided = replace(ASKED[1], priority=3, arrival_s=now_s)
    plain = replace(ASKED[0], priority=3, arrival_s=now_s + 0.001)
    first, second, urgent = Answer(), Answer(), Answer()
    engine.submit(guided, first)
    gate.wait_for_calls(1)
    engine.submit(plain, second)
    gate.let(2)
    other = replace(ASKED[2], priority=1, arrival_s=now_s)  # needs two rows: the younger of the others is not enough
    engine.submit(other, urgent)
    gate.open()
    for one, answer in ((guided, first), (plain, second), (other, urgent)):
        assert_same(one, answer, references(guided_checkpoint))
    assert gate.rows[:4] == [2, 3, 3, 2]
    assert max(gate.rows) == 3


def test_a_batch_of_one_still_serves_two_rows(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference]
) -> None:
    engine, guided, plain = start(engines, guided_checkpoint, max_batch=1), Answer(), Answer()
    engine.submit(ASKED[1], guided)
    engine.submit(ASKED[0], plain)
    assert_same(ASKED[1], guided, references(guided_checkpoint))
    assert_same(ASKED[0], plain, references(guided_checkpoint))


def test_halves_in_different_calls(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, a job's two rows may not fit into one call."""
    engine = start(engines, guided_checkpoint, max_batch=8)
    family = engine._executor._loaded
    predict = family.predict

    def one_row_only(size: Size, latents: torch.Tensor, *others: Any) -> torch.Tensor:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(size, latents, *others)

    monkeypatch.setattr(family, "predict", one_row_only)
    answers = [Answer(), Answer()]
    for one, answer in zip(ASKED[1:3], answers, strict=True):
        engine.submit(one, answer)
    for one, answer in zip(ASKED[1:3], answers, strict=True):
        assert_same(one, answer, references(guided_checkpoint))


def test_one_half_that_fails_fails_its_job_alone(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(engines, guided_checkpoint, max_batch=8)
    family = engine._executor._loaded
    predict = family.predict
    with torch.inference_mode():
        (unwanted,) = family.encode(family.tokenize(["y"]), [()])

    def no_room_for_y(size: Size, latents: torch.Tensor, timesteps: torch.Tensor, *others: Any) -> torch.Tensor:
        _, conditioning, *_ = others
        if bool((conditioning["pooled_projections"] == unwanted["pooled_projections"]).all(1).any()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(size, latents, timesteps, *others)

    monkeypatch.setattr(family, "predict", no_room_for_y)
    fails, stays = Answer(), Answer()
    engine.submit(request("x", size=SIZE, steps=3, guidance=9.0, negative_prompt="y", true_cfg_scale=2.0), fails)
    engine.submit(ASKED[1], stays)
    assert isinstance(fails.failure(), OutOfMemory)
    assert_same(ASKED[1], stays, references(guided_checkpoint))


def test_a_file_that_breaks_further_on(
    engines: Engines, guided_checkpoint: Path, references: Callable[[Path], Reference]
) -> None:
    engine, broken, neighbour = start(engines, guided_checkpoint), Answer(), Answer()
    cut: GenerateRequest = request(size=SIZE, image=picture_file()[:-200])
    engine.submit(cut, broken)
    engine.submit(ASKED[0], neighbour)
    failure = broken.failure()
    assert isinstance(failure, InvalidArgument)
    assert failure.cause == "image"
    assert_same(ASKED[0], neighbour, references(guided_checkpoint))
