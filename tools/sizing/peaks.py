"""The most memory that each part of drawing holds besides the weights, by a forward of the networks without values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from tools.sizing.live_memory import peak_bytes
from tools.sizing.networks import Networks

Size = tuple[int, int]
"""(height, width) in pixels"""


class Peaks:
    """Bytes; of networks on the meta device, or on any other."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._device = networks.transformer.device
        self._dtype: torch.dtype = networks.transformer.dtype
        self.step = lru_cache(maxsize=None)(self._step)
        self.decode = lru_cache(maxsize=None)(self._decode)
        self.encode = lru_cache(maxsize=None)(self._encode)

    def step_inputs(self, batch: int, size: Size) -> dict[str, Any]:
        """What the transformer is called with: the buffers that a batch lives in."""
        config = self._networks.transformer.config
        tokens, text = (size[0] // 16) * (size[1] // 16), self._networks.prompt_tokens
        return {
            "hidden_states": self._empty(batch, tokens, config.in_channels),
            "encoder_hidden_states": self._empty(batch, text, config.joint_attention_dim),
            "pooled_projections": self._empty(batch, config.pooled_projection_dim),
            "timestep": self._empty(batch),
            "guidance": self._empty(batch) if config.guidance_embeds else None,
            "img_ids": self._empty(tokens, 3),
            "txt_ids": self._empty(text, 3),
        }

    def job(self, size: Size) -> int:
        """What one image keeps from its admission to its end: latents and embeddings, and its row of the buffers."""
        inputs = self.step_inputs(1, size)
        of_row = ("hidden_states", "encoder_hidden_states", "pooled_projections")
        row: int = sum(inputs[name].numel() * inputs[name].element_size() for name in of_row)
        return 2 * row

    def _step(self, batch: int, size: Size) -> int:
        """One call of the transformer."""
        inputs = self.step_inputs(batch, size)
        return peak_bytes(lambda: self._networks.transformer(**inputs, return_dict=False))

    def _decode(self, batch: int, size: Size) -> int:
        """Latents to pictures."""
        maps = self._empty(batch, self._networks.vae.config.latent_channels, size[0] // 8, size[1] // 8)
        maps = maps.contiguous(memory_format=torch.channels_last)
        return peak_bytes(lambda: self._networks.vae.decode(maps, return_dict=False))

    def _encode(self, batch: int) -> int:
        """Prompts to embeddings, by the larger of the two encoders."""
        ids = torch.zeros(batch, self._networks.prompt_tokens, dtype=torch.long, device=self._device)
        return peak_bytes(lambda: self._networks.text_encoder_2(ids))

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self._dtype, device=self._device)
