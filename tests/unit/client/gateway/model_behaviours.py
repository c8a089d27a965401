"""What else a server does in the tests of the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.unit.client.fakes.answers import INFO, error, picture, response, step, texts
from tests.unit.client.fakes.command import draw, inputs_of
from tests.unit.client.fakes.grpc_server import Behaviour

NOISE = np.random.default_rng(7).integers(0, 256, (64, 64, 3), np.uint8)
"""Pixels that compress badly, so that a file's size tells its quality."""


def draw_pixels(request: Any, context: Any) -> Iterator[Any]:
    """One picture, as raw asks for it."""
    assert inputs_of(request)["output_format"] == "raw"
    yield response(
        pixels=NOISE[None, None],
        seed=np.array([[7]], dtype=np.int64),
        info=texts([[json.dumps(INFO).encode()]]),
        event=texts([[b"final"]]),
    )


def draw_with_previews(total: int) -> Behaviour:
    """As the engine does: a preview where the step is a multiple of the interval, the last step included."""

    def behave(request: Any, context: Any) -> Iterator[Any]:
        inputs = inputs_of(request)
        count, interval = inputs.get("num_images_per_prompt", 1), inputs.get("preview_interval", 0)
        for number in range(1, total + 1):
            if interval and number % interval == 0:
                small = picture("blue", "JPEG", (8, 8))
                yield step(number, total, "preview", image=texts([[small] * count]))
            else:
                yield step(number, total)
        yield from draw(request, context)

    return behave


def fail_with(message: str, *, after_steps: int = 0) -> Behaviour:
    def behave(request: Any, context: Any) -> Iterator[Any]:
        for number in range(1, after_steps + 1):
            yield step(number, 8)
        yield error(message)

    return behave
