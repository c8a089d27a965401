"""One image on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from fluxengine.config import Size

if TYPE_CHECKING:
    from fluxengine.lora.layers import LoraScales
    from fluxengine.ticket import Ticket
    from fluxengine.wire.picture_files import Picture

HEAD_START_S = 10.0
"""How much later a request of one priority lower counts as arrived: it is overtaken by newer ones, never starved."""


class Phase(Enum):
    NEW = auto()
    """Not with the scheduler yet: what it needs is being prepared."""
    WAITING = auto()
    RUNNING = auto()
    DECODING = auto()
    GONE = auto()


@dataclass(slots=True, eq=False)
class Job:
    """What the parts of the engine know of one image. All of it is read and written by the engine's thread only."""

    # Set at submission, never changed.
    ticket: Ticket
    """The request that it belongs to."""
    prompts: tuple[str, ...]
    """The prompt and, with true classifier-free guidance, the negative prompt: a row of the batch for each."""
    size: Size
    num_inference_steps: int
    """Of the schedule; an image to image job skips the first ones."""
    skipped_steps: int
    guidance_scale: float
    true_cfg_scale: float
    seed: int
    priority: int
    arrival_s: float
    preview_interval: int = 0

    # Set by the preparation, before the scheduler knows of it.
    loras: LoraScales = ()
    source: Picture | None = None
    """The picture that an image to image job starts from, of the job's size, until the job is encoded."""

    # Set by the scheduler.
    phase: Phase = Phase.NEW

    # Set by the runner: `encoded` once its prompt embeddings and first latents are there, `step` after each step.
    encoded: bool = False
    step: int = 0

    # Set by the engine, for the caller's `info`.
    started_s: float = 0.0
    """When its prompt was first taken up."""
    encode_s: float = 0.0
    denoised_s: float = 0.0
    """When its last step ended."""
    decode_s: float = 0.0
    batch_sum: int = 0
    """Sum of the sizes of the batches it was stepped in."""

    order: float = field(init=False)
    """Jobs go by this: the arrival, later for lower priorities. It never changes, so nobody starves."""

    def __post_init__(self) -> None:
        self.order = self.arrival_s + HEAD_START_S * self.priority

    @property
    def rows(self) -> int:
        """Of the transformer's batch."""
        return len(self.prompts)

    @property
    def total_steps(self) -> int:
        """That are really done."""
        return self.num_inference_steps - self.skipped_steps

    @property
    def mean_batch(self) -> float:
        return self.batch_sum / self.step if self.step else 0.0
