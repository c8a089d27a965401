"""The parameter `dtype`: in which floating-point type the model is held and computed."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger("fluxengine")

NATIVE_BFLOAT16_GPU = (8, 0)
"""Compute capability (Ampere) from which GPUs multiply bfloat16 on their tensor cores."""

NATIVE_BFLOAT16_CPU = ("amx_bf16", "avx512_bf16", "bf16")
"""Instruction sets, as torch.cpu.get_capabilities names them, that multiply bfloat16. Where none is present it is
emulated, and several times slower than float32."""


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; for `auto` the one that this device is fast in, which is logged with the reason."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    dtype, reason = _fastest(device)
    log.info("dtype auto: %s, as %s", str(dtype).removeprefix("torch."), reason)
    return dtype


def _fastest(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) >= NATIVE_BFLOAT16_GPU:
            return torch.bfloat16, f"the GPU (compute capability {major}.{minor}) multiplies it natively"
        return torch.float16, f"the GPU (compute capability {major}.{minor}) does not multiply bfloat16 natively"
    capabilities = torch.cpu.get_capabilities()
    native = [name for name in NATIVE_BFLOAT16_CPU if capabilities.get(name)]
    if native:
        return torch.bfloat16, f"this processor multiplies it natively ({native[0]})"
    return torch.float32, f"this processor does not multiply bfloat16 natively (no {' or '.join(NATIVE_BFLOAT16_CPU)})"
