"""Requests that are wrong, and what their callers are told."""

from __future__ import annotations

import math
from typing import Any

from tests.server import wire
from tests.server.servers import grpc
from tools.triton.server import TritonServer

GOOD = {"prompt": "all is well", "num_inference_steps": 1, "width": 64, "height": 64, "output_format": "png"}
TWO = ["one", "two"]


def assert_refused(message: str | None, cause: str, problem: str, request_id: str = "my-own-id") -> None:
    assert message is not None, "this was to be refused"
    expected = f"FLUX_INVALID_ARGUMENT: {cause}: {problem} [request {request_id}]"
    assert message == expected or (problem.endswith("…") and message.startswith(expected.split("…")[0])), message


def assert_serves(triton: TritonServer) -> None:
    answer = wire.grpc_stream(grpc(triton), GOOD)
    assert [[picture.shape for picture in row] for row in answer.pictures()] == [[(64, 64, 3)]]


PROMPT = "send 1 to 4096 characters of text"
LORA = "must be name or name:scale, several with commas, each scale a number from -10 to 10"
SEEDS = f"must be an integer from 0 to {2**63 - 1}"

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    # what: (inputs, the input that is named, what is said of it)
    "no prompt": ({"height": 64}, "prompt", f"is missing; {PROMPT}"),
    "empty prompt": ({"prompt": ""}, "prompt", f"is 0 characters long; {PROMPT}"),
    "blank prompt": ({"prompt": " \t\n "}, "prompt", f"is blank; {PROMPT}"),
    "prompt too long": ({"prompt": "x" * 4097}, "prompt", f"is 4097 characters long; {PROMPT}"),
    "prompt not UTF-8": ({"prompt": b"caf\xe9"}, "prompt", "is not UTF-8 text (byte 3)"),
    "steps too few": ({"num_inference_steps": 0}, "num_inference_steps", "is 0; must be an integer from 1 to 1000"),
    "steps too many": (
        {"num_inference_steps": 1001},
        "num_inference_steps",
        "is 1001; must be an integer from 1 to 1000",
    ),
    "steps negative": ({"num_inference_steps": -(2**31)}, "num_inference_steps", f"is {-(2**31)}; must be an integer…"),
    "height too small": ({"height": 48}, "height", "is 48; must be a multiple of 16 from 64 to 256"),
    "height too large": ({"height": 272}, "height", "is 272; must be a multiple of 16 from 64 to 256"),
    "height between": ({"height": 100}, "height", "is 100; must be a multiple of 16 from 64 to 256"),
    "width too small": ({"width": 0}, "width", "is 0; must be a multiple of 16 from 64 to 256"),
    "width too large": ({"width": 2**31 - 16}, "width", f"is {2**31 - 16}; must be a multiple of 16 from 64 to 256"),
    "width between": ({"width": 129}, "width", "is 129; must be a multiple of 16 from 64 to 256"),
    "guidance NaN": ({"guidance_scale": math.nan}, "guidance_scale", "is nan; must be a number from 0 to 30"),
    "guidance infinite": ({"guidance_scale": math.inf}, "guidance_scale", "is inf; must be a number from 0 to 30"),
    "guidance negative": ({"guidance_scale": -0.5}, "guidance_scale", "is -0.5; must be a number from 0 to 30"),
    "guidance too high": ({"guidance_scale": 30.25}, "guidance_scale", "is 30.25; must be a number from 0 to 30"),
    "seed negative": ({"seed": -1}, "seed", f"is -1; {SEEDS}"),
    "no images": ({"num_images_per_prompt": 0}, "num_images_per_prompt", "is 0; must be an integer from 1 to 8"),
    "too many images": ({"num_images_per_prompt": 9}, "num_images_per_prompt", "is 9; must be an integer from 1 to 8"),
    "priority negative": ({"priority": -1}, "priority", "is -1; must be an integer from 0 to 4"),
    "priority unknown": ({"priority": 5}, "priority", "is 5; must be an integer from 0 to 4"),
    "deadline negative": ({"deadline_ms": -1}, "deadline_ms", f"is -1; must be an integer from 0 to {2**31 - 1}"),
    "format unknown": ({"output_format": "gif"}, "output_format", "is 'gif'; must be one of png, jpeg, webp, raw"),
    "format empty": ({"output_format": ""}, "output_format", "is ''; must be one of png, jpeg, webp, raw"),
    "format not UTF-8": ({"output_format": b"\xff"}, "output_format", "is not UTF-8 text (byte 0)"),
    "lora": ({"lora": "style:strong"}, "lora", f"has 'style:strong'; {LORA}"),
    "true CFG alone": (
        {"true_cfg_scale": 4.0},
        "true_cfg_scale",
        "is 4, which needs a negative_prompt; send one (it may be empty)",
    ),
    "strength alone": ({"strength": 0.5}, "strength", "is of no use without an image; send one or leave it out"),
    "no picture": ({"image": "bm8gcGljdHVyZQ=="}, "image", "is not a PNG, JPEG or WebP file"),
    "an empty prompt among others": ({"prompt": ["one", ""]}, "prompt", f"row 1 is 0 characters long; {PROMPT}"),
    "a wrong number among others": (
        {"prompt": TWO, "guidance_scale": [1.0, math.nan]},
        "guidance_scale",
        "row 1 is nan; must be a number from 0 to 30",
    ),
    "a wrong size among others": (
        {"prompt": TWO, "width": [65, 64]},
        "width",
        "row 0 is 65; must be a multiple of 16 from 64 to 256",
    ),
    "raw rows of several sizes": (
        {"prompt": TWO, "width": [64, 128], "output_format": ["raw", "raw"]},
        "output_format",
        "raw needs rows of one size, and these differ (row 0: 64x128, row 1: 128x128); use png",
    ),
    "formats differ": (
        {"prompt": TWO, "output_format": ["png", "webp"]},
        "output_format",
        "differs between rows (png, webp); must be one for all",
    ),
    "numbers of images differ": (
        {"prompt": TWO, "num_images_per_prompt": [1, 2]},
        "num_images_per_prompt",
        "differs between rows (1, 2); must be one for all",
    ),
    "base64 differs": ({"prompt": TWO, "base64": [True, False]}, "base64", "differs between rows…"),
    "priorities differ": ({"prompt": TWO, "priority": [1, 4]}, "priority", "differs between rows (1, 4)…"),
    "deadlines differ": ({"prompt": TWO, "deadline_ms": [0, 5]}, "deadline_ms", "differs between rows (0, 5)…"),
}


def with_prompt(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a table's entry; "no prompt" is meant."""
    return inputs if "prompt" in inputs or inputs == WRONG["no prompt"][0] else {"prompt": "fine", **inputs}
