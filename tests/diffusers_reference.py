"""What diffusers' own pipelines draw for a row of a request."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image

from fluxengine.wire.picture_files import Picture
from fluxengine.wire.request import PromptRequest

LENGTH = 64
"""Text tokens, unless a caller says otherwise."""


LEVELS = {torch.float32: 1, torch.bfloat16: 20}
"""How many levels of 255 a pixel may be off, whoever shares the batch, with the random weights of `checkpoints`.

In bfloat16 the size of a batch can decide how a matrix product is summed up, and so how it is rounded. With every
product of the reference summed up as two halves, 9 levels were the most in 128 pictures; where the processor emulates
bfloat16, a batch changes nothing at all. Pictures of a guidance-distilled model in float32 are off by up to 160.
"""


class Reference:
    """FluxPipeline, or FluxImg2ImgPipeline, as anyone would call it: one picture at a time.

    Its VAE works in the memory format of the engine's, as bfloat16 rounds elsewhere in another one.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, loras: Path | None = None) -> None:
        from_pretrained: Any = FluxPipeline.from_pretrained
        self.pipeline = from_pretrained(folder, dtype=dtype)
        if dtype != torch.float32:
            self.pipeline.vae.to(memory_format=torch.channels_last)
        self.levels = LEVELS[dtype]
        self._loras = loras
        self._drawn: dict[tuple[PromptRequest, int], Picture] = {}

    def __call__(self, row: PromptRequest, max_sequence_length: int = LENGTH) -> Picture:
        if (row, max_sequence_length) not in self._drawn:
            try:
                for name, _ in row.loras:
                    self.pipeline.load_lora_weights(self._loras, weight_name=f"{name}.safetensors", adapter_name=name)
                if row.loras:
                    self.pipeline.set_adapters([name for name, _ in row.loras], [scale for _, scale in row.loras])
                self._drawn[row, max_sequence_length] = self._draw(row, max_sequence_length)
            finally:
                if row.loras:
                    self.pipeline.unload_lora_weights()
        return self._drawn[row, max_sequence_length]

    def _draw(self, row: PromptRequest, max_sequence_length: int) -> Picture:
        pipeline, source = self.pipeline, {}
        if row.image is not None:
            # Without a dtype it would make float32 of the weights, which both share.
            pipeline = FluxImg2ImgPipeline.from_pipe(pipeline, dtype=pipeline.dtype)
            source = {"image": Image.open(io.BytesIO(row.image)).convert("RGB"), "strength": row.strength}
        pipeline.set_progress_bar_config(disable=True)
        image = pipeline(
            row.prompt,
            negative_prompt=row.negative_prompt,
            true_cfg_scale=row.true_cfg_scale,
            height=row.height,
            width=row.width,
            num_inference_steps=row.num_inference_steps,
            guidance_scale=row.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(row.seed),
            max_sequence_length=max_sequence_length,
            **source,
        ).images[0]
        return np.asarray(image)
