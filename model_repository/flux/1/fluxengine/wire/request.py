"""What a caller asks for: frozen, validated, with every default filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fluxengine.size import Size
from fluxengine.wire.inputs import DEFAULT_STRENGTH


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
