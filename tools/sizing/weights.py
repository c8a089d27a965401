"""Bytes that the weights of a network take on the device, quantized or not."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import torch

LinearBytes = Callable[[int, int], float]
"""(features out, features in) → bytes of the weight of a linear layer"""

LINEAR_BYTES: dict[str, LinearBytes] = {
    # Of torchao: int8 values; for each row a float32 scale and an int8 zero point.
    "int8_weight_only": lambda rows, columns: rows * columns + rows * 5,
    "int8_dynamic": lambda rows, columns: rows * columns + rows * 5,
    # Of torchao: float8 values and a float32 scale for each row.
    "fp8_weight_only": lambda rows, columns: rows * columns + rows * 4,
    "fp8_dynamic": lambda rows, columns: rows * columns + rows * 4,
    # Of torchao: two values in a byte, a float8 scale for each 16 of them in tiles of 128 by 4, one float32 for all.
    "nvfp4": lambda rows, columns: rows * columns / 2 + ceil(rows / 128) * 128 * ceil(columns / 64) * 4 + 4,
    # Of bitsandbytes: two values in a byte and a float32 scale for each 64.
    "nf4": lambda rows, columns: rows * columns / 2 + rows * columns / 64 * 4,
}


def weight_bytes(network: Any, quantization: str = "none") -> int:
    """Of all weights; `quantization` changes the linear layers only, as it does when a model is loaded."""
    linear = {id(layer.weight) for layer in network.modules() if isinstance(layer, torch.nn.Linear)}
    of_linear = LINEAR_BYTES.get(quantization)
    total = 0.0
    for weight in (*network.parameters(), *network.buffers()):
        quantized = of_linear if id(weight) in linear else None
        total += quantized(*weight.shape) if quantized else weight.numel() * weight.element_size()
    return round(total)


def largest_linear_bytes(network: Any) -> int:
    """Of the largest linear layer as it is before quantization: so much is unpacked at a time."""
    return max(
        layer.weight.numel() * layer.weight.element_size()
        for layer in network.modules()
        if isinstance(layer, torch.nn.Linear)
    )
