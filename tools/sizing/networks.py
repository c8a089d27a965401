"""The networks of a FLUX pipeline on the meta device: all shapes, no memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

FLUX_1_DEV = "FLUX.1-dev"

# The config.json of each part of https://huggingface.co/black-forest-labs/FLUX.1-dev, as far as shapes depend on it.
_FLUX_1_DEV: dict[str, dict[str, Any]] = {
    "transformer": {
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
    },
    # openai/clip-vit-large-patch14
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "projection_dim": 768,
        "eos_token_id": 2,
    },
    # google/t5-v1_1-xxl
    "text_encoder_2": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}


@dataclass(frozen=True, slots=True)
class Networks:
    """The four networks, without values, and the length in tokens of a prompt."""

    transformer: Any
    text_encoder: Any
    text_encoder_2: Any
    vae: Any
    prompt_tokens: int

    @classmethod
    def of(cls, model: str, dtype: torch.dtype, device: str = "meta", layers: int | None = None) -> Networks:
        """`model` is FLUX.1-dev, or a folder in diffusers' format. On another device they get random weights.

        `layers` is how many of each kind of block there are, if not as many as the model has: one is computed after
        the other, so that the peak of two is that of all. Raises FileNotFoundError for a folder that is not one.
        """
        configs = _FLUX_1_DEV if model == FLUX_1_DEV else _read(Path(model))
        if layers is not None:
            configs = configs | {
                "transformer": configs["transformer"] | {"num_layers": layers, "num_single_layers": layers},
                "text_encoder_2": configs["text_encoder_2"] | {"num_layers": layers},
            }
        with torch.device(device):
            networks = (
                FluxTransformer2DModel.from_config(configs["transformer"]),
                CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
                T5EncoderModel(T5Config(**configs["text_encoder_2"])),
                AutoencoderKL.from_config(configs["vae"]),
            )
        tokens = 512 if networks[0].config.guidance_embeds else 256
        if "serving" in configs:
            tokens = configs["serving"].get("max_sequence_length", tokens)
        transformer, text_encoder, text_encoder_2, vae = (network.eval().to(dtype) for network in networks)
        return cls(transformer, text_encoder, text_encoder_2, vae, tokens)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    configs: dict[str, dict[str, Any]] = {
        part: json.loads((folder / part / "config.json").read_text()) for part in _FLUX_1_DEV
    }
    serving = folder / "serving.json"
    return configs | ({"serving": json.loads(serving.read_text())} if serving.exists() else {})
