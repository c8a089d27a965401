"""LoRAs of random weights for the linear layers of a network, named by any scheme; and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fluxengine.lora.layers import Lora

Tensors = dict[str, torch.Tensor]

Read = Callable[[Tensors], Lora]
"""As from a file named `some`."""

AB, DOWN_UP = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")

FIRST = "transformer_blocks.0.attn.to_q"

SCHEMES = {  # prefix, what stands for dots, the two halves
    "diffusers": ("transformer.", ".", AB),
    "diffusers, its transformer alone": ("", ".", AB),
    "diffusers before PEFT": ("transformer.", ".", ("lora.down.weight", "lora.up.weight")),
    "diffusers' processors": ("transformer.", ".", ("processor.lora.down.weight", "processor.lora.up.weight")),
    "dots and lora_down": ("transformer.", ".", DOWN_UP),
    "PEFT": ("base_model.model.", ".", AB),
    "PEFT with the adapter's name": ("transformer.", ".", ("lora_A.default.weight", "lora_B.default.weight")),
    "OneTrainer": ("lora_transformer_", "_", DOWN_UP),
    "LyCORIS": ("lycoris_", "_", DOWN_UP),
    "kohya's prefix": ("lora_unet_", "_", DOWN_UP),
    "ComfyUI's prefix": ("diffusion_model.", ".", AB),
}


def linear_layers(network: Any) -> dict[str, torch.nn.Linear]:
    return {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}


def pair(layer: torch.nn.Linear, rank: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, layer.in_features), torch.randn(layer.out_features, rank)


def tensors_for(
    layers: Mapping[str, torch.nn.Linear],
    prefix: str = "transformer.",
    halves: tuple[str, str] = AB,
    alpha: float | None = None,
    dots: str = ".",
) -> Tensors:
    tensors: Tensors = {}
    for n, (name, layer) in enumerate(layers.items()):
        name = prefix + name.replace(".", dots)
        tensors |= {f"{name}.{half}": value for half, value in zip(halves, pair(layer, 1 + n % 4), strict=True)}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def deltas(lora: Lora, network: str = "transformer") -> Tensors:
    return {layer: part.scaling * part.up @ part.down for layer, part in getattr(lora, network).items()}


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for layer, delta in expected.items():
        torch.testing.assert_close(found[layer], delta, rtol=1e-4, atol=1e-4)


def products(tensors: Tensors, halves: tuple[str, str]) -> list[torch.Tensor]:
    """In the order of the file's layers: alpha / rank · up · down."""
    names = [key.removesuffix(f".{halves[0]}") for key in tensors if key.endswith(halves[0])]
    found = []
    for name in names:
        down, up = (tensors[f"{name}.{half}"] for half in halves)
        found.append(tensors.get(f"{name}.alpha", torch.tensor(len(down))) / len(down) * up @ down)
    return found
