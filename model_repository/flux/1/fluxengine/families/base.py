"""What differs between members of FLUX, behind one small interface; all the rest of the engine is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from fluxengine.lora.layers import Lora, LoraScales
from fluxengine.size import Size
from fluxengine.wire.limits import Defaults
from fluxengine.wire.picture_files import Picture

Conditioning = Mapping[str, torch.Tensor]
"""What the transformer is told besides the latents, by name, one image each: no batch dimension.

Its names and shapes are the family's own business; for one checkpoint they are the same for every prompt.
"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The way from noise to picture. All values are exact float32 numbers."""

    timesteps: tuple[float, ...]
    """[steps], as the transformer is conditioned on them, 1000 → 0"""
    sigmas: tuple[float, ...]
    """[steps], share of noise before each step, 1 → 0"""
    deltas: tuple[float, ...]
    """[steps], σ_next − σ: negative"""

    def after(self, steps: int) -> Schedule:
        """What is left of it after its first `steps` steps."""
        return Schedule(self.timesteps[steps:], self.sigmas[steps:], self.deltas[steps:])


@dataclass(frozen=True, slots=True)
class StepCacheRows:
    """What the rows of one transformer call keep from step to step, as views that the call writes to. B rows.

    Written only once the call cannot fail any more, so that it can be made again.
    """

    reuse: Sequence[bool]
    """[B]: the rows for which only the first block is computed"""
    first: torch.Tensor
    """[B, S, D], what the first block added at the step last computed in full"""
    rest: torch.Tensor
    """[B, S, D], what all other blocks added then"""
    distances: torch.Tensor
    """[B] float32, relative change of what the first block adds; meaningless for a row's first step"""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One prompt as the text encoders take it."""

    ids: tuple[torch.Tensor, ...]
    """For each text encoder, [L] of its own, on the CPU"""
    left_out: Mapping[str, str]
    """The end of the prompt for which there was no room, by text encoder; empty where all of it had."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The beginning of a picture, as far as it is made without the device."""

    schedule: Schedule
    tensors: Mapping[str, torch.Tensor]
    """On the CPU. Names and shapes are the family's own business."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of the transformer's batch begins with, to be read only: rows and a cache may share tensors."""

    latents: torch.Tensor
    """Packed [S, C]"""
    conditioning: Conditioning
    schedule: Schedule


class Family(Protocol):
    """A loaded checkpoint. Rows of a batch never influence each other.

    Everything is called by the engine's thread, but for what says otherwise.
    """

    device: torch.device
    dtype: torch.dtype
    guided: bool
    """Whether guidance_scale has any effect (guidance-distilled), or not (timestep-distilled)."""
    max_sequence_length: int
    defaults: Defaults
    inputs: frozenset[str]
    """Those of wire.inputs.FAMILY_INPUTS that it takes."""

    def warm_up(self, size: Size) -> None:
        """Compiles what steps of this size need, where something is compiled. May take minutes."""
        ...

    def tokenize(self, prompts: Sequence[str]) -> list[Tokens]:
        """On the CPU, from any thread."""
        ...

    def encode(self, prompts: Sequence[Tokens], loras: Sequence[LoraScales]) -> list[Conditioning]:
        """Text encoding, batched; one result for each prompt, with the LoRAs of that prompt."""
        ...

    def schedule(self, size: Size, steps: int) -> Schedule:
        """The timesteps of diffusers' pipeline for this picture size."""
        ...

    def prepare(self, size: Size, schedule: Schedule, seed: int, source: Picture | None) -> Prepared:
        """Random numbers as `torch.Generator("cpu").manual_seed(seed)` gives them to diffusers, and the pixels of the
        picture that image to image starts from. On the CPU, from any thread."""
        ...

    def admit(self, prepared: Prepared, conditionings: Sequence[Conditioning]) -> tuple[Row, ...]:
        """A row for each conditioning of one picture."""
        ...

    def cost(self, size: Size) -> float:
        """What a step of a row takes of the device, against rows of other sizes."""
        ...

    def step_cache_shape(self, size: Size) -> tuple[int, int]:
        """(S, D) of what a step cache keeps of each row, twice."""
        ...

    def predict(
        self,
        size: Size,
        latents: torch.Tensor,  # [B, S, C]
        timesteps: torch.Tensor,  # [B] float32
        guidance: torch.Tensor,  # [B] float32
        conditioning: Conditioning,  # each [B, …]
        loras: Sequence[LoraScales],  # [B]
        step_cache: StepCacheRows | None,
    ) -> torch.Tensor:
        """The velocity [B, S, C]: noise − picture."""
        ...

    def decode(self, size: Size, latents: torch.Tensor) -> torch.Tensor:
        """Packed latents [B, S, C] → pictures [B, H, W, 3], uint8, on the CPU."""
        ...

    def preview(self, size: Size, latents: torch.Tensor, longest_edge: int) -> torch.Tensor:
        """As decode, but shrunk before decoding so that no edge is longer than `longest_edge`: cheap and soft."""
        ...

    def load_lora(self, path: Path) -> Lora:
        """Reads a LoRA file onto the device, each of its keys. From any thread.

        Raises InvalidArgument when it is broken, not made for this model, or more than a plain LoRA.
        """
        ...

    def close(self) -> None:
        """Ends what still goes on in the background. The last call."""
        ...
