"""What differs between generations of FLUX, behind one small interface; all the rest of the engine is shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fluxengine.config import Size

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


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a checkpoint asks to be served with, where the operator says `auto`."""

    steps: int
    guidance: float
    size: Size
    max_size: Size


class Family(Protocol):
    """A loaded checkpoint. Everything is called by the engine's thread; rows of a batch never influence each other."""

    device: torch.device
    dtype: torch.dtype
    guided: bool
    """Whether guidance_scale has any effect (guidance-distilled), or not (timestep-distilled)."""
    max_sequence_length: int
    defaults: Defaults

    def encode_prompts(self, prompts: Sequence[str]) -> list[Conditioning]:
        """Text encoding, batched; one result for each prompt."""
        ...

    def schedule(self, size: Size, steps: int) -> Schedule:
        """The timesteps of diffusers' pipeline for this picture size."""
        ...

    def initial_latents(self, size: Size, seed: int) -> torch.Tensor:
        """Packed noise [S, C], drawn as `torch.Generator("cpu").manual_seed(seed)` gives it to diffusers."""
        ...

    def predict(
        self,
        size: Size,
        latents: torch.Tensor,  # [B, S, C]
        timesteps: torch.Tensor,  # [B] float32
        guidance: torch.Tensor,  # [B] float32
        conditioning: Conditioning,  # each [B, …]
    ) -> torch.Tensor:
        """The velocity [B, S, C]: noise − picture."""
        ...

    def decode(self, size: Size, latents: torch.Tensor) -> torch.Tensor:
        """Packed latents [B, S, C] → pictures [B, H, W, 3], uint8, on the CPU."""
        ...

    def preview(self, size: Size, latents: torch.Tensor, longest_edge: int) -> torch.Tensor:
        """As decode, but shrunk before decoding so that no edge is longer than `longest_edge`: cheap and soft."""
        ...
