"""Calls of OpenAI's API, and what comes back, for the tests of the gateway."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import openai
from PIL import Image

from tests.server.answers import Pixels
from tests.server.reference import Drawing
from tests.server.servers import ENGINE

PATH = "/v1/images/generations"
TEXT_TOKENS = int(ENGINE["max_sequence_length"])
"""What the reference must know of the server that `servers.environment` makes."""

STEPS = 1000
ENDLESS: dict[str, Any] = {"num_inference_steps": STEPS, "size": "256x256"}
"""What takes far longer than any test."""


def connected(gateway: str, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0, **options)


def asked(drawing: Drawing) -> dict[str, Any]:
    """The arguments of the SDK for a drawing; what OpenAI's API does not have goes along as it does there."""
    return {
        "prompt": drawing.prompt,
        "size": f"{drawing.width}x{drawing.height}",
        "extra_body": {
            "seed": drawing.seed,
            "num_inference_steps": drawing.steps,
            "guidance_scale": drawing.guidance,
        },
    }


def picture(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def pixels(text: str | None) -> Pixels:
    return np.asarray(picture(text))
