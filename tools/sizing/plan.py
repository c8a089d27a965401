"""What fits on a card: from weights and peaks to the parameters of config.pbtxt."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fluxengine.device.memory import in_flight_that_fit
from tools.sizing.networks import Networks
from tools.sizing.peaks import Peaks, Size
from tools.sizing.weights import largest_linear_bytes, weight_bytes

GB = 1e9

UNUSABLE = 1.5 * GB
"""Assumed, not derived: what the driver, the CUDA context, the libraries' workspaces and fragmentation take."""

BATCHES = (1, 2, 4, 8, 16)
"""Those that are tried."""

OFFLOADS = ("none", "model", "sequential")
SIZES: tuple[Size, ...] = ((512, 512), (1024, 1024))
DECODED_AT_ONCE = 1  # with vae_slicing


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of each part. The transformer and the T5 encoder are quantized, as the engine loads them."""

    transformer: int
    text_encoder_2: int
    others: int
    largest_layer: int
    """As it is before quantization."""
    quantized: bool

    @classmethod
    def of(cls, networks: Networks, quantization: str) -> Weights:
        return cls(
            weight_bytes(networks.transformer, quantization),
            weight_bytes(networks.text_encoder_2, quantization),
            weight_bytes(networks.text_encoder) + weight_bytes(networks.vae),
            largest_linear_bytes(networks.transformer),
            quantization != "none",
        )

    def resident(self, offload: str) -> int:
        """On the device at the same time."""
        if offload == "sequential":
            return self.largest_layer
        unpacked = self.largest_layer if self.quantized else 0  # one at a time
        if offload == "model":
            return max(self.transformer, self.text_encoder_2) + unpacked
        return self.transformer + self.text_encoder_2 + self.others + unpacked


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    card: int
    quantization: str
    offload: str
    resident: int
    max_batch: tuple[int, ...]
    """for each of SIZES; 0: does not fit"""
    max_in_flight: int


def settings(card: int, weights: dict[str, Weights], peaks: Peaks) -> list[Setting]:
    """For a card of so many GB: each quantization with as little offload as it fits with, if it fits."""
    found = []
    for quantization, of_parts in weights.items():
        for offload in OFFLOADS[: 2 if of_parts.quantized else 3]:  # quantized layers cannot be moved one by one
            room = card * GB - UNUSABLE - of_parts.resident(offload)
            batches = tuple(largest_batch(room, size, peaks) for size in SIZES)
            if any(batches):
                size, batch = max((size, batch) for size, batch in zip(SIZES, batches, strict=True) if batch)
                left = room - needed(batch, size, peaks)
                in_flight = in_flight_that_fit(int(left), peaks.job(size), batch)
                found.append(Setting(card, quantization, offload, of_parts.resident(offload), batches, in_flight))
                break
    return found


def largest_batch(room: float, size: Size, peaks: Peaks) -> int:
    fitting = [batch for batch in BATCHES if needed(batch, size, peaks) <= room]
    return max(fitting, default=0)


def needed(batch: int, size: Size, peaks: Peaks) -> int:
    """Besides the weights: the jobs of the batch, and the largest of what is done one after the other."""
    one, two = peaks.step(1, size), peaks.step(2, size)
    step = one + (batch - 1) * (two - one)  # a test holds that it grows by the same for each row
    return batch * peaks.job(size) + max(step, peaks.decode(DECODED_AT_ONCE, size), peaks.encode(1))


def of_model(model: str, quantizations: tuple[str, ...]) -> tuple[dict[str, Weights], Peaks]:
    networks = Networks.of(model, torch.bfloat16)
    weights = {quantization: Weights.of(networks, quantization) for quantization in quantizations}
    return weights, Peaks(Networks.of(model, torch.bfloat16, layers=2))
