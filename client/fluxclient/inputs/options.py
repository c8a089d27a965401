"""One table of the model's inputs, and of what callers may set: `generate` in Python, the command and the gateway take
their names, types and limits from it.

The server has its own limits, which it was started with: here are the widest that one can have; of the text of `lora`,
where a server counts the names alone, what a gateway takes. To add an option is a line of INPUTS, one of Options, which
type checkers read, and the places that shall offer it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from fluxclient.inputs.lora import Loras
from fluxclient.inputs.source_image import SourceImage


@dataclass(frozen=True)
class Input:
    """One input of the model."""

    name: str
    datatype: str
    """Triton's."""
    least: float = 0
    most: float = math.inf
    """Of a number; of a text, its characters."""
    flag: str = ""
    """Of the command; "" where it has none."""
    help: str = ""
    """What the command says of it."""
    is_option: bool = True
    """Whether callers may set it: the others the client sets itself."""

    @property
    def is_whole(self) -> bool:
        return self.datatype in ("INT32", "INT64")


INPUTS: tuple[Input, ...] = (
    Input("prompt", "BYTES", 1, 4096, is_option=False),
    Input("height", "INT32", 1, 8192, "--size", "Of the pictures, like 128x128."),
    Input("width", "INT32", 1, 8192, "--size", "Of the pictures, like 128x128."),
    Input("num_inference_steps", "INT32", 1, 1000, "--steps", "Denoising steps."),
    Input("guidance_scale", "FP32", 0, 30, "--guidance", "How closely to follow the prompt, 0 to 30."),
    Input("seed", "INT64", 0, 2**63 - 1, "--seed", "Of the first picture of each prompt; drawn if absent."),
    Input("num_images_per_prompt", "INT32", 1, 64, "-n", "Pictures of each prompt."),
    Input("lora", "BYTES", 0, 1024, "--lora", "LoRAs that the server has."),
    Input("negative_prompt", "BYTES", 0, 4096, "--negative-prompt", "What to keep away from, by --true-cfg-scale."),
    Input(
        "true_cfg_scale",
        "FP32",
        1,
        30,
        "--true-cfg-scale",
        "How far to keep away from it, 1 (not at all) to 30; more than 1 takes twice as long.",
    ),
    Input("image", "BYTES", flag="--image", help="Begin with this picture: a PNG, JPEG or WebP file."),
    Input("strength", "FP32", 0.01, 1, "--strength", "How much of --image may change, up to 1."),
    Input("output_format", "BYTES", flag="--format", help="Of the files."),
    Input("base64", "BOOL", is_option=False),
    Input("progress", "BOOL", is_option=False),
    Input("preview_interval", "INT32", 0, 2**31 - 1),
    Input("priority", "INT32", 0, 4, "--priority", "1 is the highest."),
    Input("deadline_ms", "INT32", 0, 2**31 - 1),
)

BY_NAME: Mapping[str, Input] = {item.name: item for item in INPUTS}
DATATYPES: Mapping[str, str] = {item.name: item.datatype for item in INPUTS}
FLAGS: Mapping[str, str] = {item.name: item.flag for item in INPUTS if item.flag}
"""The command's options by the names that errors of the library and of the server have for them."""


class Options(TypedDict, total=False):
    """What may be said of a picture. What is left out, the server decides (its model's defaults)."""

    height: int
    """Pixels, a multiple of 16."""
    width: int
    """Pixels, a multiple of 16."""
    num_inference_steps: int
    guidance_scale: float
    """0 to 30."""
    seed: int
    """0 to 2^63-1; the server draws one if absent. Image i of a prompt uses seed + i."""
    num_images_per_prompt: int
    output_format: str
    """png (default), jpeg, webp, or raw for pixels that were never compressed."""
    preview_interval: int
    """With `stream`: a small picture every so many steps; 0 (default) for none."""
    priority: int
    """1 (highest) to 4; 0 for the default, 2."""
    deadline_ms: int
    """When the server shall give up, counted from arrival; by default the timeout. 0 for never."""
    lora: Loras
    """`name` or `name:scale`, several with `,` or as a sequence; or the scale of each by its name."""
    negative_prompt: str
    """What to keep away from; counts where `true_cfg_scale` is more than 1."""
    true_cfg_scale: float
    """1 (default) to 30: more than 1 is classifier-free guidance, which computes each step twice."""
    image: SourceImage
    """Image to image: a path, the bytes of a PNG, JPEG or WebP file, or a picture of Pillow's to begin with."""
    strength: float
    """With `image`, more than 0 to 1: how much of it may change. Fewer steps are taken where it is less than 1."""
    timeout: float | None
    """Seconds that the whole request may take, instead of the client's; None to wait without limit."""
