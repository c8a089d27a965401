"""Where the parts of the pipeline are: on the device, or in the host's memory until they are used.

The parameters `offload`, `vae_slicing` and `vae_tiling`: less device memory for more time.
"""

from __future__ import annotations

from typing import Any

import torch

from fluxengine.errors import ConfigError


def place(pipeline: Any, device: torch.device, offload: str, *, vae_slicing: bool, vae_tiling: bool) -> None:
    """Brings a FluxPipeline to `device`, or has it brought there part by part.

    `offload` is none; model (each of the networks is on the device only while it is used); or sequential (each layer).
    """
    if offload != "none" and device.type != "cuda":
        raise ConfigError(f"offload is {offload!r}: needs a GPU; on {device} it must be none")
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if vae_slicing:
        pipeline.vae.enable_slicing()
    if vae_tiling:
        pipeline.vae.enable_tiling()
