"""What every picture is held against: diffusers' own FluxPipeline, called for one picture at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fluxengine.wire.request import PromptRequest
from tests import diffusers_reference
from tests.server.answers import Answer, Pixels


@dataclass(frozen=True)
class Drawing:
    """One picture, as asked for."""

    prompt: str
    steps: int = 4
    guidance: float = 3.5
    seed: int = 0
    width: int = 128
    height: int = 128
    loras: tuple[tuple[str, float], ...] = ()
    negative_prompt: str | None = None
    true_cfg_scale: float = 1.0
    image: bytes | None = None
    strength: float = 0.6

    @property
    def inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "prompt": self.prompt,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "seed": self.seed,
            "width": self.width,
            "height": self.height,
        }
        if self.loras:
            inputs["lora"] = ",".join(f"{name}:{scale}" for name, scale in self.loras)
        if self.negative_prompt is not None:
            inputs |= {"negative_prompt": self.negative_prompt, "true_cfg_scale": self.true_cfg_scale}
        if self.image is not None:
            inputs |= {"image": self.image, "strength": self.strength}
        return inputs

    @property
    def request(self) -> PromptRequest:
        """The same as the engine has it."""
        return PromptRequest(
            *(self.prompt, self.height, self.width, self.steps, self.guidance, self.seed),
            *(self.loras, self.negative_prompt, self.true_cfg_scale, self.image, self.strength),
        )


def rows(drawings: Sequence[Drawing]) -> dict[str, list[Any]]:
    """The inputs of one request for all of them."""
    return {name: [drawing.inputs[name] for drawing in drawings] for name in drawings[0].inputs}


class Reference:
    """A checkpoint in FluxPipeline, on one thread, and the pictures that it has drawn."""

    def __init__(self, checkpoint: Path, loras: Path | None = None, dtype: torch.dtype = torch.float32) -> None:
        torch.set_num_threads(1)
        self._reference = diffusers_reference.Reference(checkpoint, dtype, loras)

    def draw(self, drawing: Drawing, max_sequence_length: int) -> Pixels:
        return self._reference(drawing.request, max_sequence_length)

    def holds(self, drawing: Drawing, picture: Pixels, max_sequence_length: int) -> None:
        """Fails unless no pixel is off by more levels of 255 than its dtype has to allow: one in float32."""
        expected = self.draw(drawing, max_sequence_length)
        assert picture.shape == expected.shape, f"{drawing}: {picture.shape}, not {expected.shape}"
        off = int(np.abs(picture.astype(int) - expected.astype(int)).max())
        assert off <= self._reference.levels, f"{drawing}: a pixel is off by {off} levels"

    def holds_answer(self, drawings: Sequence[Drawing], answer: Answer, base64_text: bool = True) -> None:
        """Fails unless the answer has one picture for each row, these, and says so."""
        pictures = answer.pictures(base64_text)
        assert len(pictures) == len(drawings) == len(answer.infos)
        for drawing, row, info in zip(drawings, pictures, answer.infos, strict=True):
            assert len(row) == 1
            assert (info["steps"], info["width"], info["height"]) == (drawing.steps, drawing.width, drawing.height)
            self.holds(drawing, row[0], info["max_sequence_length"])
        assert answer.seeds == [[drawing.seed] for drawing in drawings]
