"""The body of OpenAI's `POST /v1/images/generations`, and what it means to FLUX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from fluxclient.errors import InvalidArgument, shown
from fluxclient.gateway.fields import (
    Body,
    DeadlineMs,
    Guidance,
    Images,
    Lora,
    NegativePrompt,
    Priority,
    Prompt,
    ResponseFormat,
    Seed,
    Steps,
    TrueCfg,
)
from fluxclient.inputs.options import BY_NAME, Options

OPENAI_NAMES: Mapping[str, str] = {
    "num_images_per_prompt": "n",
    "width": "size: the first number",
    "height": "size: the second number",
    "preview_interval": "partial_images",
}
"""Our options whose name is another in this API: the key, and which part of it."""

_MAX_EDGE = BY_NAME["width"].most
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)


class ImageRequest(Body):
    """Types and closed lists are checked here; what the model can do, it says itself. null is as good as absent."""

    EVENTS: ClassVar[str] = "image_generation"
    """What the types of its events begin with."""
    TAKES_ALL_STEPS: ClassVar[bool] = True
    """Whether as many steps are taken as were asked for."""

    prompt: Prompt
    model: str | None = None
    n: Images | None = None
    size: str | None = None
    response_format: ResponseFormat | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)

    # Accepted, as clients send them, and without effect.
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    style: Literal["vivid", "natural"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    # Go to the log.
    user: str | None = None
    safety_identifier: str | None = None

    # What OpenAI's API does not have.
    seed: Seed | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    lora: Lora | None = None
    negative_prompt: NegativePrompt | None = None
    true_cfg_scale: TrueCfg | None = None
    priority: Priority | None = None
    deadline_ms: DeadlineMs | None = None
    progress: bool | None = None

    @property
    def kind(self) -> str:
        """Of the files in the answer."""
        return self.output_format or "png"

    @property
    def file_quality(self) -> int | None:
        """Of a JPEG or WebP file that the gateway makes itself; None for files as the server makes them."""
        return None if self.kind == "png" else self.output_compression

    @property
    def names(self) -> Mapping[str, str]:
        """What this request calls our options, where that differs."""
        return OPENAI_NAMES

    def options(self) -> Options:
        """For fluxclient. Raises InvalidArgument where two of the values contradict each other."""
        self._check_together()
        options = self.named_options()
        options["output_format"] = "raw" if self.file_quality is not None else self.kind
        if self.n is not None:
            options["num_images_per_prompt"] = self.n
        if self.size not in (None, "auto"):
            options["width"], options["height"] = self._edges()
        return options

    def drawn_steps(self, total: int) -> int:
        """How many steps are taken of so many."""
        return total

    def _edges(self) -> tuple[int, int]:
        if not (edges := _SIZE.fullmatch(self.size or "")):
            problem = f"is {shown(self.size)}; must be WIDTHxHEIGHT in pixels, as in 1024x1024, or auto"
            raise InvalidArgument(problem, field="size")
        width, height = int(edges[1]), int(edges[2])
        if not (1 <= width <= _MAX_EDGE and 1 <= height <= _MAX_EDGE):
            raise InvalidArgument(f"is {shown(self.size)}; both numbers must be 1 to {_MAX_EDGE}", field="size")
        return width, height

    def _check_together(self) -> None:
        if self.kind == "png" and self.output_compression not in (None, 100):
            problem = (
                f"is {self.output_compression}; must be 100 for a PNG file, which loses nothing, or left out; "
                "less is for output_format jpeg and webp"
            )
            raise InvalidArgument(problem, field="output_compression")
        if self.stream and self.response_format == "url":
            raise InvalidArgument(
                "is 'url'; a stream carries the pictures itself, as b64_json", field="response_format"
            )
        for name in ("partial_images", "progress"):
            if getattr(self, name) and not self.stream:
                raise InvalidArgument("needs stream: true", field=name)
