"""diffusers' own pipeline, as a script would call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image

from tools.bench.traffic import Wanted


class Pipeline:
    """Loads and draws in the thread that calls it; gradients and threads of torch are set for that thread."""

    def __init__(self, model: Path, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._pipeline: Any = FluxPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
        self._pipeline.set_progress_bar_config(disable=True)
        # What the server does too, so that the two differ in how they serve alone.
        self._pipeline.vae.to(memory_format=torch.channels_last)
        serving = json.loads((model / "serving.json").read_text())
        width, height = serving["default_size"].split("x")
        self._options = {
            "width": int(width),
            "height": int(height),
            "max_sequence_length": serving["max_sequence_length"],
        }

    def draw(self, wanted: Wanted) -> Image.Image:
        with torch.inference_mode():
            image: Image.Image = self._pipeline(
                wanted.prompt,
                num_inference_steps=wanted.num_inference_steps,
                guidance_scale=wanted.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(wanted.seed),
                **self._options,
            ).images[0]
        return image
