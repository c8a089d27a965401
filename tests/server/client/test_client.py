"""fluxclient against a real Triton: both clients over both protocols."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fluxclient import (
    DeadlineExceeded,
    FluxError,
    Health,
    InvalidArgument,
    NotFound,
    Preview,
    Progress,
    Result,
)
from tests.server.faces import EACH, IDS, Made
from tests.server.reference import Drawing, Reference
from tests.server.servers import settled, until_idle
from tests.unit.client.fakes.faces import FACES, Face
from tools.triton.server import TritonServer

ONE = Drawing("a small fox", steps=4, seed=11)
OPTIONS: dict[str, Any] = {"seed": 11, "num_inference_steps": 4}
ENDLESS: dict[str, Any] = {"num_inference_steps": 1000, "height": 256, "width": 256}


@pytest.fixture(params=EACH, ids=IDS)
def made(request: pytest.FixtureRequest) -> Made:
    each: Made = request.param
    return each


@pytest.fixture
def client(made: Made, triton: TritonServer) -> Face:
    return made(triton)


def pixels(result: Result, index: int = 0) -> Any:
    return np.asarray(result.images[index].convert("RGB"))


def holds(reference: Reference, drawing: Drawing, result: Result) -> None:
    reference.holds(drawing, pixels(result), result.info.max_sequence_length)


# --- pictures


def test_generate(client: Face, reference: Reference) -> None:
    result = client.generate(ONE.prompt, **OPTIONS)

    assert (result.prompt, result.seeds, result.info.steps) == (ONE.prompt, (11,), 4)
    assert (result.info.width, result.info.height) == result.image.size == (128, 128)
    assert result.info.total_ms >= result.info.denoise_ms > 0
    holds(reference, ONE, result)


@pytest.mark.parametrize("prompts", [["a fox"], ["a fox", "ein Bär 🐻", 'a "quoted"\n\\ thing']])
def test_several_prompts_with_several_images(client: Face, reference: Reference, prompts: list[str]) -> None:
    results = client.generate(prompts, seed=5, num_inference_steps=2, num_images_per_prompt=2)

    assert [(result.prompt, result.seeds) for result in results] == [(prompt, (5, 6)) for prompt in prompts]
    for prompt, result in zip(prompts, results, strict=True):
        reference.holds(Drawing(prompt, steps=2, seed=6), pixels(result, 1), result.info.max_sequence_length)


@pytest.mark.parametrize("prompts", ["a fox", ["a fox", "a bear"]])
@pytest.mark.parametrize(
    "options",
    [
        {"output_format": "raw", "num_images_per_prompt": 2},
        {"output_format": "jpeg"},
        {"output_format": "webp", "guidance_scale": 1.7},
        {"height": 64, "width": 192, "priority": 1, "preview_interval": 1, "deadline_ms": 60_000},
    ],
    ids=["raw", "jpeg", "webp", "size"],
)
def test_protocols_and_clients_give_the_same_pictures(
    triton: TritonServer, options: dict[str, Any], prompts: str | list[str]
) -> None:
    answers = [
        face(url).generate(prompts, seed=3, num_inference_steps=2, **options)
        for face in FACES
        for url in (triton.urls.grpc, triton.urls.http)
    ]
    first, *others = [answer if isinstance(answer, list) else [answer] for answer in answers]
    assert all(bool(result.files) is (options.get("output_format") != "raw") for result in first)
    for other in others:
        for result, same in zip(first, other, strict=True):
            assert result.files == same.files
            assert result.seeds == same.seeds
            for index in range(len(result.images)):
                assert np.array_equal(pixels(result, index), pixels(same, index))


def test_stream_with_previews(client: Face, reference: Reference) -> None:
    events = client.events(ONE.prompt, preview_interval=2, **OPTIONS)

    assert [event.step for event in events if type(event) is Progress] == [1, 2, 3, 4]
    previews = [event for event in events if isinstance(event, Preview)]
    assert [preview.step for preview in previews] == [2, 4]
    assert all(preview.images[0] is not None and preview.images[0].size == (64, 64) for preview in previews)
    result = events[-1]
    assert isinstance(result, Result)
    holds(reference, ONE, result)


def test_generate_many(client: Face) -> None:
    prompts = [f"fox {number}" for number in range(100)]
    prompts[40] = ""
    answers = client.generate_many(prompts, concurrency=32, seed=1, num_inference_steps=1, height=64, width=64)

    assert isinstance(answers.pop(40), InvalidArgument)
    prompts.pop(40)
    assert [answer.prompt for answer in answers if isinstance(answer, Result)] == prompts
    assert len({answer.files for answer in answers if isinstance(answer, Result)}) == 99


# --- errors


@pytest.mark.parametrize(
    ("prompts", "options", "kind_of_error", "field"),
    [
        ("", {}, InvalidArgument, "prompt"),
        (["fine", ""], {}, InvalidArgument, "prompt"),
        (["fine"] * 9, {}, InvalidArgument, "prompt"),
        ("fine", {"height": 7}, InvalidArgument, "height"),
        ("fine", {"guidance_scale": -1e30}, InvalidArgument, "guidance_scale"),
        ("fine", {"seed": -1}, InvalidArgument, "seed"),
        ("fine", {"output_format": "gif"}, InvalidArgument, "output_format"),
        ("fine", {"priority": 9}, InvalidArgument, "priority"),
        ("fine", {**ENDLESS, "deadline_ms": 50}, DeadlineExceeded, "deadline"),
        (["fine"] * 2, {**ENDLESS, "deadline_ms": 50}, DeadlineExceeded, "deadline"),
    ],
)
def test_errors_of_the_model(
    client: Face, prompts: Any, options: dict[str, Any], kind_of_error: type[FluxError], field: str
) -> None:
    with pytest.raises(kind_of_error) as caught:
        client.generate(prompts, **options)
    assert (type(caught.value), caught.value.field) == (kind_of_error, field)
    assert caught.value.request_id
    assert "[request" not in caught.value.text


def test_timeout_is_the_deadline_of_the_server_too(client: Face, triton: TritonServer) -> None:
    before = until_idle(triton)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.generate("too long", timeout=0.5, **ENDLESS)
    assert time.monotonic() - start < 5

    after = until_idle(triton)
    assert after.total("flux_steps_total") - before.total("flux_steps_total") < 1000
    ends = [
        after.total("flux_dropped_images_total", {"cause": cause})
        - before.total("flux_dropped_images_total", {"cause": cause})
        for cause in ("deadline_exceeded", "cancelled")
    ]
    assert sum(ends) == 1


def test_model_that_is_not_there(made: Made, triton: TritonServer) -> None:
    client = made(triton, model="nobody")
    for ask in (lambda: client.generate("a fox"), lambda: client.generate(["a", "b"]), client.statistics):
        with pytest.raises(NotFound) as caught:
            ask()
        assert caught.value.field == "model"
    health = client.health()
    assert (health.live, health.ready, health.model_ready) == (True, True, False)
    with pytest.raises(NotFound, match="nobody"):
        client.load()


# --- statistics


def test_statistics(client: Face, triton: TritonServer) -> None:
    until_idle(triton)
    before = client.statistics()
    client.generate(["a statistical fox", "a bear"], num_inference_steps=3)
    with pytest.raises(InvalidArgument):
        client.generate("a fox", height=1)
    settled(triton)
    after = client.statistics()

    assert (after.server, after.model, after.instances) == ("triton 2.51.0", "flux", 1)
    assert after.requests["ok"] - before.requests.get("ok", 0) == 1
    assert after.requests["invalid_argument"] > before.requests.get("invalid_argument", 0)
    assert (after.images - before.images, after.steps - before.steps) == (2, 6)
    assert 1 <= after.mean_batch <= 16
    found = after.prompt_cache_hits + after.prompt_cache_misses
    assert found - before.prompt_cache_hits - before.prompt_cache_misses == 2
    assert (after.waiting, after.running) == (0, 0)
    assert client.health() == Health(True, True, True)
