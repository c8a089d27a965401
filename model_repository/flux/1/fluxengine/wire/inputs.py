"""The inputs of the model: one table, which all that names, reads, sends or documents them is held equal to.

To add one: a row here, the field of PromptRequest or GenerateRequest and its line in parsing.py, its use, and what
tests/unit/test_inputs.py and tests/unit/client/inputs/test_options.py then name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fluxengine.size import MIN_EDGE, SIZE_MULTIPLE

MAX_PROMPT_CHARACTERS = 4096
MAX_SEED = 2**63 - 1
DEFAULT_STRENGTH = 0.6
DEFAULT_PRIORITY = 2
OUTPUT_FORMATS = ("png", "jpeg", "webp", "raw")


@dataclass(frozen=True, slots=True)
class Input:
    """One value for each prompt. `prompt` alone must be sent."""

    data_type: Literal["STRING", "INT32", "INT64", "FP32", "BOOL"]
    """As Triton calls it."""
    meaning: str
    """For people who call the model."""
    default: str | float | None = None
    """None where the checkpoint or the operator says, or where leaving it out is something of its own."""
    low: float | None = None
    high: float | None = None
    """The smallest and the largest value; None where the operator says. Of text: the characters of it."""
    multiple_of: int = 1
    of_streams: bool = False
    """flux_unary, which has one response, does not take it."""
    by_family: bool = False
    """Some members of FLUX take it, others do not: see `Family.inputs`."""


_SIZE = "multiples of 16, from 64 to the configured maximum"

INPUTS: Mapping[str, Input] = MappingProxyType(
    {
        "prompt": Input("STRING", "1 to 4,096 characters", low=1, high=MAX_PROMPT_CHARACTERS),
        "height": Input("INT32", _SIZE, low=MIN_EDGE, multiple_of=SIZE_MULTIPLE),
        "width": Input("INT32", _SIZE, low=MIN_EDGE, multiple_of=SIZE_MULTIPLE),
        "num_inference_steps": Input("INT32", "1 to the configured maximum", low=1),
        "guidance_scale": Input(
            "FP32", "0 to 30; no effect on timestep-distilled checkpoints (FLUX.1-schnell)", low=0, high=30
        ),
        "seed": Input("INT64", "0 to 2^63−1; drawn if absent. Image i of a prompt uses seed + i", low=0, high=MAX_SEED),
        "num_images_per_prompt": Input("INT32", "1 to the configured maximum", default=1, low=1),
        "lora": Input(
            "STRING",
            "`name` or `name:scale`, several with `,`: files of `lora_dir` without their suffix; scales from −10 to 10",
            default="",
            by_family=True,
        ),
        "negative_prompt": Input(
            "STRING",
            "what not to draw, at most 4,096 characters; has an effect where true_cfg_scale is above 1",
            high=MAX_PROMPT_CHARACTERS,
            by_family=True,
        ),
        "true_cfg_scale": Input(
            "FP32",
            "1 (default: off) to 30; each step then computes two rows",
            default=1.0,
            low=1,
            high=30,
            by_family=True,
        ),
        "image": Input(
            "STRING",
            "image to image: a PNG, JPEG or WebP file (up to 20 MiB, 50 million pixels and 32,768 a side) as bytes, "
            "base64 (line breaks are fine) or a data URL; it is turned as its EXIF data say, laid on white where it is "
            "transparent, and resized to height and width. In a request of several prompts, empty for those without",
            by_family=True,
        ),
        "strength": Input(
            "FP32",
            "how much of the image is drawn anew, above 0 to 1 (from 0.01); default 0.6. "
            "Of n steps about n · strength are done",
            default=DEFAULT_STRENGTH,
            low=0.01,
            high=1,
            by_family=True,
        ),
        "output_format": Input(
            "STRING",
            "png (default), jpeg, webp, or raw: UINT8 tensor `pixels` instead of `image`",
            default="png",
        ),
        "base64": Input(
            "BOOL",
            "true (default): `image` holds base64 text, as JSON needs it; false: the bytes of the files",
            default=True,
        ),
        "progress": Input(
            "BOOL",
            "an event after each step, and every 5 s while there is none; only for streams",
            default=False,
            of_streams=True,
        ),
        "preview_interval": Input(
            "INT32",
            "with progress: a small JPEG every k steps, as the step predicts the picture",
            default=0,
            low=0,
            of_streams=True,
        ),
        "priority": Input("INT32", "1 (highest) to 4; default 2", default=DEFAULT_PRIORITY, low=0, high=4),
        "deadline_ms": Input(
            "INT32",
            "from arrival at the model; the protocol's own timeout counts as well, whichever is sooner",
            default=0,
            low=0,
            high=2**31 - 1,
        ),
    }
)

STREAM_INPUTS = frozenset(name for name, described in INPUTS.items() if described.of_streams)
FAMILY_INPUTS = frozenset(name for name, described in INPUTS.items() if described.by_family)
