"""What a caller asks for: frozen, validated, with every default filled in."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fluxengine.config import MIN_EDGE, SIZE_MULTIPLE, Size
from fluxengine.errors import InvalidArgument
from fluxengine.wire.parameters import deadline, refuse_misplaced
from fluxengine.wire.picture_files import picture_file

MAX_PROMPT_CHARACTERS = 4096
MAX_GUIDANCE = 30.0
MAX_LORA_SCALE = 10.0
MIN_STRENGTH, DEFAULT_STRENGTH = 0.01, 0.6
MAX_SEED = 2**63 - 1
OUTPUT_FORMATS = ("png", "jpeg", "webp", "raw")
PRIORITIES = (1, 2, 3, 4)
DEFAULT_PRIORITY = 2
INPUTS = frozenset(
    {
        "prompt",
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "num_images_per_prompt",
        "lora",
        "negative_prompt",
        "true_cfg_scale",
        "image",
        "strength",
        "output_format",
        "base64",
        "progress",
        "preview_interval",
        "priority",
        "deadline_ms",
    }
)

STREAM_INPUTS = frozenset({"progress", "preview_interval"})
"""Those that flux_unary does not have."""

T = TypeVar("T")
Value = bytes | int | float | bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests may ask for and what they get by default, once the checkpoint is known."""

    default_steps: int
    max_steps: int
    default_guidance: float
    default_size: Size
    max_size: Size
    max_images: int
    max_loras: int

    @property
    def by_default(self) -> dict[str, float]:
        """What requests get that do not say, by the name of the input."""
        height, width = self.default_size
        return {
            "height": height,
            "width": width,
            "num_inference_steps": self.default_steps,
            "guidance_scale": self.default_guidance,
            "strength": DEFAULT_STRENGTH,
        }

    @property
    def at_most(self) -> dict[str, float]:
        height, width = self.max_size
        return {
            "height": height,
            "width": width,
            "num_inference_steps": self.max_steps,
            "num_images_per_prompt": self.max_images,
        }


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One row of a request: a prompt and how to draw it. Image i of the row uses `seed + i`."""

    prompt: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    loras: tuple[tuple[str, float], ...] = ()
    """Names and scales."""
    negative_prompt: str | None = None
    true_cfg_scale: float = 1.0
    image: bytes | None = None
    """The file that an image to image request starts from."""
    strength: float = DEFAULT_STRENGTH

    @property
    def size(self) -> Size:
        return self.height, self.width

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt and, where it has any effect, the negative prompt: as diffusers decides it."""
        if self.negative_prompt is None or self.true_cfg_scale <= 1:
            return (self.prompt,)
        return self.prompt, self.negative_prompt

    @property
    def skipped_steps(self) -> int:
        """The first steps of the schedule that image to image leaves out, as FluxImg2ImgPipeline.get_timesteps."""
        if self.image is None:
            return 0
        return int(max(self.num_inference_steps - self.num_inference_steps * self.strength, 0))


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One request: N prompts that are answered together. Times are of `time.monotonic()`."""

    id: str
    rows: tuple[PromptRequest, ...]
    num_images_per_prompt: int
    output_format: str
    base64: bool
    progress: bool
    preview_interval: int
    priority: int
    arrival_s: float
    deadline_s: float | None

    @property
    def upload_bytes(self) -> int:
        """What its pictures take of the host's memory: as files, and decoded."""
        return sum(len(row.image or b"") + 3 * row.width * row.height for row in self.rows_with_images)

    @property
    def rows_with_images(self) -> tuple[PromptRequest, ...]:
        """Each different one once."""
        return tuple(dict.fromkeys(row for row in self.rows if row.image))

    def without_files(self) -> GenerateRequest:
        """The same, once its pictures have been decoded: empty files in the place of its own."""
        return replace(self, rows=tuple(row if row.image is None else replace(row, image=b"") for row in self.rows))


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
    refuse_misplaced(parameters, INPUTS, frozenset() if streams else STREAM_INPUTS)
    if not inputs.get("prompt"):
        raise InvalidArgument("prompt", "is missing; send 1 to 4096 characters of text")
    reader = _Reader(inputs, len(inputs["prompt"]))
    reader.refuse_other_lengths()
    rows = tuple(_rows(reader, limits))
    output_format = reader.shared("output_format", reader.texts("output_format", "png")).lower()
    if output_format not in OUTPUT_FORMATS:
        raise InvalidArgument("output_format", f"is {output_format[:40]!r}; must be one of {', '.join(OUTPUT_FORMATS)}")
    if output_format == "raw" and len({row.size for row in rows}) > 1:
        sizes = ", ".join(f"row {n}: {row.width}x{row.height}" for n, row in enumerate(rows))
        raise InvalidArgument("output_format", f"raw needs rows of one size, and these differ ({sizes}); use png")
    if len(loras := {name for row in rows for name, _ in row.loras}) > limits.max_loras:
        raise InvalidArgument(
            "lora", f"has {len(loras)} in all rows; at most {limits.max_loras} are allowed (max_loras)"
        )
    deadline_ms = reader.shared("deadline_ms", reader.integers("deadline_ms", 0, 0, 2**31 - 1))
    return GenerateRequest(
        id=request_id,
        rows=rows,
        num_images_per_prompt=reader.shared(
            "num_images_per_prompt", reader.integers("num_images_per_prompt", 1, 1, limits.max_images)
        ),
        output_format=output_format,
        base64=bool(reader.shared("base64", reader.values("base64", True))),
        progress=bool(reader.shared("progress", reader.values("progress", False))),
        preview_interval=reader.shared("preview_interval", reader.integers("preview_interval", 0, 0, limits.max_steps)),
        priority=reader.shared("priority", reader.integers("priority", 0, 0, max(PRIORITIES))) or DEFAULT_PRIORITY,
        arrival_s=arrival_s,
        deadline_s=deadline(deadline_ms, timeout_us, parameters, default_deadline_ms, arrival_s),
    )


def _rows(reader: _Reader, limits: Limits) -> list[PromptRequest]:
    prompts = reader.texts("prompt", "")
    for n, prompt in enumerate(prompts):
        if not 1 <= len(prompt) <= MAX_PROMPT_CHARACTERS or not prompt.strip():
            sent = "blank" if prompt and not prompt.strip() else f"{len(prompt)} characters long"
            raise InvalidArgument(
                "prompt", f"{reader.where(n)}is {sent}; send 1 to {MAX_PROMPT_CHARACTERS} characters of text"
            )
    sizes: dict[str, list[int]] = {}
    for edge, default, most in zip(("height", "width"), limits.default_size, limits.max_size, strict=True):
        sizes[edge] = reader.integers(edge, default, MIN_EDGE, most, multiple_of=SIZE_MULTIPLE)
    steps = reader.integers("num_inference_steps", limits.default_steps, 1, limits.max_steps)
    guidance = reader.numbers("guidance_scale", limits.default_guidance, 0.0, MAX_GUIDANCE)
    seeds = reader.integers("seed", 0, 0, MAX_SEED)
    if "seed" not in reader.inputs:
        seeds = [secrets.randbelow(2**32) for _ in prompts]  # short enough for a person to copy
    loras = [_loras(text, reader.where(n)) for n, text in enumerate(reader.texts("lora", ""))]
    negatives, scales = _true_cfg(reader)
    images, strengths = _images(reader)
    return [
        PromptRequest(*row)
        for row in zip(
            *(prompts, sizes["height"], sizes["width"], steps, guidance, seeds),
            *(loras, negatives, scales, images, strengths),
            strict=True,
        )
    ]


def _true_cfg(reader: _Reader) -> tuple[Sequence[str | None], list[float]]:
    scales = reader.numbers("true_cfg_scale", 1.0, 1.0, MAX_GUIDANCE)
    if "negative_prompt" not in reader.inputs:
        for n, scale in enumerate(scales):
            if scale > 1:
                raise InvalidArgument(
                    "true_cfg_scale",
                    f"{reader.where(n)}is {scale:g}, which needs a negative_prompt; send one (it may be empty)",
                )
        return [None] * reader.count, scales
    texts = reader.texts("negative_prompt", "")
    for n, text in enumerate(texts):
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise InvalidArgument(
                "negative_prompt",
                f"{reader.where(n)}is {len(text)} characters long; send at most {MAX_PROMPT_CHARACTERS}",
            )
    return texts, scales


def _images(reader: _Reader) -> tuple[Sequence[bytes | None], list[float]]:
    strengths = reader.numbers("strength", DEFAULT_STRENGTH, MIN_STRENGTH, 1.0)
    if "image" not in reader.inputs:
        if "strength" in reader.inputs:
            raise InvalidArgument("strength", "is of no use without an image; send one or leave it out")
        return [None] * reader.count, strengths
    files = reader.values("image", b"")
    if files == [b""]:
        raise InvalidArgument("image", "is empty; send a PNG, JPEG or WebP file, or leave it out")
    return [picture_file(file) if file else None for file in files], strengths  # rows without one send nothing


def _loras(text: str, where: str) -> tuple[tuple[str, float], ...]:
    """`name` or `name:scale`, several with commas."""
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        try:
            scale = float(number) if colon else 1.0
        except ValueError:
            scale = math.nan
        if not name or not -MAX_LORA_SCALE <= scale <= MAX_LORA_SCALE:
            raise InvalidArgument(
                "lora",
                f"{where}has {part[:80]!r}; must be name or name:scale, several with commas, "
                f"each scale a number from {-MAX_LORA_SCALE:g} to {MAX_LORA_SCALE:g}",
            )
        if name in found:
            raise InvalidArgument("lora", f"{where}names {name[:80]!r} twice")
        found[name] = scale
    return tuple(found.items())


class _Reader:
    """Row values by input, each checked for type and range."""

    def __init__(self, inputs: Mapping[str, Sequence[Value]], count: int) -> None:
        self.inputs = inputs
        self.count = count

    def where(self, row: int) -> str:
        return f"row {row} " if self.count > 1 else ""

    def refuse_other_lengths(self) -> None:
        for name, values in self.inputs.items():
            if len(values) != self.count:
                raise InvalidArgument(name, f"has {len(values)} rows and prompt has {self.count}; send one for each")

    def values(self, name: str, default: T) -> Sequence[T]:
        return self.inputs.get(name) or [default] * self.count  # type: ignore[return-value]

    def shared(self, name: str, values: Sequence[T]) -> T:
        """The value of an input that is about the whole answer, which its rows must agree on."""
        if any(value != values[0] for value in values):
            raise InvalidArgument(
                name, f"differs between rows ({', '.join(map(str, values))[:200]}); must be one for all"
            )
        return values[0]

    def texts(self, name: str, default: str) -> list[str]:
        decoded = []
        for n, value in enumerate(self.values(name, default.encode())):
            try:
                decoded.append(value.decode())
            except UnicodeDecodeError as error:
                raise InvalidArgument(name, f"{self.where(n)}is not UTF-8 text (byte {error.start})") from None
        return decoded

    def integers(self, name: str, default: int, low: int, high: int, multiple_of: int = 1) -> list[int]:
        numbers = [int(value) for value in self.values(name, default)]
        for n, number in enumerate(numbers):
            if not low <= number <= high or number % multiple_of:
                kind = f"a multiple of {multiple_of}" if multiple_of > 1 else "an integer"
                raise InvalidArgument(name, f"{self.where(n)}is {number}; must be {kind} from {low} to {high}")
        return numbers

    def numbers(self, name: str, default: float, low: float, high: float) -> list[float]:
        # As they were meant: 0.6 comes as the float32 next to it, which is more, and a step less would be skipped.
        numbers = [float(f"{value:.7g}") for value in self.values(name, default)]
        for n, number in enumerate(numbers):
            if not (math.isfinite(number) and low <= number <= high):
                raise InvalidArgument(name, f"{self.where(n)}is {number:g}; must be a number from {low:g} to {high:g}")
        return numbers
