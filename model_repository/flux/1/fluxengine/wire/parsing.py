"""From the values that came over the wire to a `GenerateRequest`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from fluxengine.errors import InvalidArgument
from fluxengine.wire.inputs import (
    DEFAULT_PRIORITY,
    FAMILY_INPUTS,
    INPUTS,
    MAX_PROMPT_CHARACTERS,
    OUTPUT_FORMATS,
    STREAM_INPUTS,
)
from fluxengine.wire.limits import Limits
from fluxengine.wire.lora_syntax import parse_loras
from fluxengine.wire.parameters import deadline, refuse_misplaced
from fluxengine.wire.picture_files import picture_file
from fluxengine.wire.request import GenerateRequest, PromptRequest
from fluxengine.wire.row_values import RowValues, Value


def parse_request(
    inputs: Mapping[str, Sequence[Value]],
    parameters: Mapping[str, object],
    limits: Limits,
    *,
    request_id: str,
    arrival_s: float,
    timeout_us: int = 0,
    default_deadline_ms: int = 0,
    streams: bool = True,
) -> GenerateRequest:
    """Validates what came over the wire.

    `inputs` has the N row values of each input that was sent (text as bytes); `parameters` are the request's own;
    `timeout_us` is the native timeout of the protocol, 0 for none. `default_deadline_ms` is for a request that sets
    no time limit at all, 0 for none. `streams` is whether the model that was called has inputs about progress.
    Raises InvalidArgument naming the input, what was sent and what is allowed.
    """
    refused = FAMILY_INPUTS - limits.inputs
    refuse_misplaced(parameters, INPUTS.keys() - refused, frozenset() if streams else STREAM_INPUTS)
    for name in inputs:
        if name in refused:
            raise InvalidArgument(name, "cannot be used by the checkpoint that is served; leave it out")
    if not inputs.get("prompt"):
        raise InvalidArgument("prompt", "is missing; send 1 to 4096 characters of text")
    values = RowValues(inputs)
    rows = tuple(_rows(values, limits))
    output_format = _output_format(values, rows)
    if len(loras := {name for row in rows for name, _ in row.loras}) > limits.max_loras:
        raise InvalidArgument(
            "lora", f"has {len(loras)} in all rows; at most {limits.max_loras} are allowed (max_loras)"
        )
    images = values.integers("num_images_per_prompt", high=limits.max_images)
    deadline_ms = values.shared("deadline_ms", values.integers("deadline_ms"))
    priority = values.shared("priority", values.integers("priority"))
    return GenerateRequest(
        id=request_id,
        rows=rows,
        num_images_per_prompt=values.shared("num_images_per_prompt", images),
        output_format=output_format,
        base64=values.shared("base64", values.switches("base64")),
        progress=values.shared("progress", values.switches("progress")),
        preview_interval=values.shared("preview_interval", values.integers("preview_interval", high=limits.max_steps)),
        priority=priority or DEFAULT_PRIORITY,  # 0 is Triton's word for the default
        arrival_s=arrival_s,
        deadline_s=deadline(deadline_ms, timeout_us, parameters, default_deadline_ms, arrival_s),
    )


def _rows(values: RowValues, limits: Limits) -> list[PromptRequest]:
    prompts = _prompts(values)
    (height, width), (max_height, max_width) = limits.default_size, limits.max_size
    heights = values.integers("height", default=height, high=max_height)
    widths = values.integers("width", default=width, high=max_width)
    steps = values.integers("num_inference_steps", default=limits.default_steps, high=limits.max_steps)
    guidance = values.numbers("guidance_scale", default=limits.default_guidance)
    seeds = values.integers("seed", default=0)
    if "seed" not in values:
        seeds = [secrets.randbelow(2**32) for _ in prompts]  # short enough for a person to copy
    loras = [parse_loras(text, values.where(n)) for n, text in enumerate(values.texts("lora"))]
    negatives, scales = _true_cfg(values)
    images, strengths = _images(values)
    return [
        PromptRequest(*row)
        for row in zip(
            *(prompts, heights, widths, steps, guidance, seeds),
            *(loras, negatives, scales, images, strengths),
            strict=True,
        )
    ]


def _prompts(values: RowValues) -> list[str]:
    prompts = values.texts("prompt")
    for n, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= MAX_PROMPT_CHARACTERS or not prompt.strip():
            sent = "blank" if prompt and not prompt.strip() else f"{len(prompt)} characters long"
            raise InvalidArgument(
                "prompt", f"{values.where(n)}is {sent}; send 1 to {MAX_PROMPT_CHARACTERS} characters of text"
            )
    return prompts


def _output_format(values: RowValues, rows: Sequence[PromptRequest]) -> str:
    output_format = values.shared("output_format", values.texts("output_format")).lower()
    if output_format not in OUTPUT_FORMATS:
        raise InvalidArgument("output_format", f"is {output_format[:40]!r}; must be one of {', '.join(OUTPUT_FORMATS)}")
    if output_format == "raw" and len({row.size for row in rows}) > 1:
        sizes = ", ".join(f"row {n}: {row.width}x{row.height}" for n, row in enumerate(rows))
        raise InvalidArgument("output_format", f"raw needs rows of one size, and these differ ({sizes}); use png")
    return output_format


def _true_cfg(values: RowValues) -> tuple[Sequence[str | None], list[float]]:
    scales = values.numbers("true_cfg_scale")
    if "negative_prompt" not in values:
        for n, scale in enumerate(scales):
            if scale > 1:
                raise InvalidArgument(
                    "true_cfg_scale",
                    f"{values.where(n)}is {scale:g}, which needs a negative_prompt; send one (it may be empty)",
                )
        return [None] * values.count, scales
    texts = values.texts("negative_prompt")
    for n, text in enumerate(texts):
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise InvalidArgument(
                "negative_prompt",
                f"{values.where(n)}is {len(text)} characters long; send at most {MAX_PROMPT_CHARACTERS}",
            )
    return texts, scales


def _images(values: RowValues) -> tuple[Sequence[bytes | None], list[float]]:
    strengths = values.numbers("strength")
    if "image" not in values:
        if "strength" in values:
            raise InvalidArgument("strength", "is of no use without an image; send one or leave it out")
        return [None] * values.count, strengths
    files = values.files("image")
    if files == [b""]:
        raise InvalidArgument("image", "is empty; send a PNG, JPEG or WebP file, or leave it out")
    return [picture_file(file) if file else None for file in files], strengths  # rows without one send nothing
