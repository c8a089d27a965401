"""A family whose pictures can be worked out by hand, so that a test sees at once whose numbers went into which picture.

All values are small integers, exact in float32. Each step adds `text + guidance + steps left` to every latent, so

    picture(prompt, steps, guidance, seed) = seed % 89 + steps · (text + guidance) + steps · (steps + 1) / 2   (mod 251)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fluxengine.errors import InvalidArgument
from fluxengine.families.base import Conditioning, Prepared, Row, Schedule, StepCacheRows, Tokens
from fluxengine.lora.layers import Lora, LoraScales
from fluxengine.size import Size
from fluxengine.wire.inputs import FAMILY_INPUTS
from fluxengine.wire.limits import Defaults
from fluxengine.wire.picture_files import Picture

CHANNELS = 4


def text_value(prompt: str) -> int:
    return sum(prompt.encode()) % 97


def level(prompt: str, steps: int, guidance: float, seed: int) -> int:
    """What every pixel of the picture is."""
    return int(seed % 89 + steps * (text_value(prompt) + guidance) + steps * (steps + 1) // 2) % 251


def guess_level(prompt: str, steps: int, guidance: float, seed: int, step: int) -> int:
    """What every pixel of the preview of a step (1 is the first) is: x − σ·v, with σ the steps left before it."""
    text = text_value(prompt) + guidance
    x, left = float(seed % 89), steps
    for _ in range(step - 1):
        x, left = x + text + left, left - 1
    return int(x + left * (text + left)) % 251


class ArithmeticFamily:
    """See `Family`. Each `on_…` is called before the work is done, and may raise or wait."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.guided = True
        self.max_sequence_length = 77
        self.inputs = FAMILY_INPUTS
        self.defaults = Defaults(steps=4, guidance=2.0, size=(64, 64), max_size=(256, 256))
        self.on_encode: Callable[[Sequence[str]], None] = lambda prompts: None
        self.on_predict: Callable[[list[int]], None] = lambda texts: None
        self.on_decode: Callable[[int], None] = lambda rows: None
        self.on_load_lora: Callable[[str], None] = lambda name: None
        self.on_preview: Callable[[int], None] = lambda rows: None

    def warm_up(self, size: Size) -> None:
        pass

    def close(self) -> None:
        pass

    def tokenize(self, prompts: Sequence[str]) -> list[Tokens]:
        """A character is a token."""
        return [
            Tokens(
                (torch.tensor(list(prompt.encode())),),
                {"text_encoder": words} if (words := prompt[self.max_sequence_length :]) else {},
            )
            for prompt in prompts
        ]

    def encode(self, prompts: Sequence[Tokens], loras: Sequence[LoraScales] = ()) -> list[Conditioning]:
        texts = [bytes(prompt.ids[0].tolist()).decode() for prompt in prompts]
        self.on_encode(texts)
        return [{"text": torch.full((1,), float(text_value(text)))} for text in texts]

    def schedule(self, size: Size, steps: int) -> Schedule:
        left = tuple(float(steps - step) for step in range(steps))
        return Schedule(timesteps=left, sigmas=left, deltas=(-1.0,) * steps)

    def prepare(self, size: Size, schedule: Schedule, seed: int, source: Picture | None) -> Prepared:
        """A picture that is started from adds its level and the steps left."""
        start = seed if source is None else int(source.max()) + seed + int(schedule.sigmas[0])
        return Prepared(schedule, {"noise": torch.full((size[0] // 16 * size[1] // 16, CHANNELS), float(start % 89))})

    def admit(self, prepared: Prepared, conditionings: Sequence[Conditioning]) -> tuple[Row, ...]:
        return tuple(Row(prepared.tensors["noise"], one, prepared.schedule) for one in conditionings)

    def cost(self, size: Size) -> float:
        return float(size[0] * size[1])

    def predict(
        self,
        size: Size,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        guidance: torch.Tensor,
        conditioning: Conditioning,
        loras: Sequence[LoraScales] = (),
        step_cache: StepCacheRows | None = None,
    ) -> torch.Tensor:
        text = conditioning["text"]  # [B, 1]
        self.on_predict([int(value) for value in text[:, 0]])
        assert latents.shape[1:] == (size[0] // 16 * size[1] // 16, CHANNELS)
        push = text[:, 0] + guidance + timesteps  # [B]
        if loras:
            push = push + torch.tensor([sum(scale * len(lora.name) for lora, scale in row) for row in loras])
        return -push[:, None, None].expand_as(latents)

    def step_cache_shape(self, size: Size) -> tuple[int, int]:
        raise NotImplementedError("its steps have no parts to reuse")

    def load_lora(self, path: Path) -> Lora:
        """Adds as many to each step as its name has letters. A file that is not empty is broken."""
        self.on_load_lora(path.stem)
        if path.read_bytes():
            raise InvalidArgument("lora", f"{path.stem!r} is broken")
        return Lora(path.stem, {}, {})

    def decode(self, size: Size, latents: torch.Tensor) -> torch.Tensor:
        self.on_decode(len(latents))
        assert bool((latents == latents[:, :1, :1]).all()), "a row of latents is not one number"
        levels = (latents[:, 0, 0].long() % 251).to(torch.uint8)
        return levels[:, None, None, None].expand(-1, *size, 3).contiguous()

    def preview(self, size: Size, latents: torch.Tensor, longest_edge: int) -> torch.Tensor:
        self.on_preview(len(latents))
        shrink = min(1.0, longest_edge / max(size))
        return self.decode((round(size[0] * shrink), round(size[1] * shrink)), latents)
