"""Small LoRAs with random weights for the checkpoints of `checkpoints.py`, in the formats that people publish."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file


def save_random_lora(
    checkpoint: Path,
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 8.0,
    targets: tuple[str, ...] = (
        "attn.to_q",
        "attn.to_out.0",
        "ff.net.0.proj",
        "proj_mlp",
        "norm1.linear",
        "x_embedder",
    ),
    text_encoder: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
) -> Path:
    """Saves `folder/name.safetensors` as FluxPipeline.save_lora_weights does. No weight is zero."""
    from_pretrained: Any = FluxPipeline.from_pretrained
    pipeline = from_pretrained(checkpoint)
    config: Any = LoraConfig(
        r=rank, lora_alpha=int(alpha), target_modules=list(targets), rank_pattern=dict(rank_pattern or {})
    )
    pipeline.transformer.add_adapter(config)
    layers = {"transformer_lora_layers": _random(get_peft_model_state_dict(pipeline.transformer), seed)}
    metadata = {"transformer_lora_adapter_metadata": pipeline.transformer.peft_config["default"].to_dict()}
    if text_encoder:
        text_config: Any = LoraConfig(r=rank, lora_alpha=int(alpha), target_modules=["q_proj", "fc1"])
        pipeline.text_encoder.add_adapter(text_config)
        layers["text_encoder_lora_layers"] = _random(get_peft_model_state_dict(pipeline.text_encoder), seed + 1)
        metadata["text_encoder_lora_adapter_metadata"] = pipeline.text_encoder.peft_config["default"].to_dict()
    save: Any = FluxPipeline.save_lora_weights
    save(folder, weight_name=f"{name}.safetensors", **layers, **metadata)
    return folder / f"{name}.safetensors"


def save_kohya_lora(folder: Path, name: str, *, width: int, seed: int = 0, rank: int = 4, alpha: float = 2.0) -> Path:
    """As sd-scripts writes it: fused names of Black Forest Labs' code, alphas as tensors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, outputs in (
        ("double_blocks_0_img_attn_proj", width),
        ("double_blocks_0_img_mlp_0", 4 * width),
    ):
        down = torch.randn(rank, width, generator=generator) * 0.3
        up = torch.randn(outputs, rank, generator=generator) * 0.3
        tensors[f"lora_unet_{layer}.lora_down.weight"] = down
        tensors[f"lora_unet_{layer}.lora_up.weight"] = up
        tensors[f"lora_unet_{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def save_foreign_lora(folder: Path, name: str) -> Path:
    """One for the U-Net of SDXL: its names alone are 30 KiB."""
    layers = [f"lora_unet_input_blocks_{block}_1_transformer_blocks_{n}" for block in (4, 5, 7, 8) for n in range(80)]
    halves = ("lora_down.weight", "lora_up.weight")
    save_file(
        {f"{layer}_attn1_to_q.{half}": torch.ones(2, 2) for layer in layers for half in halves},
        folder / f"{name}.safetensors",
    )
    return folder / f"{name}.safetensors"


def _random(state: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(value.shape, generator=generator) * 0.3 for key, value in state.items()}
