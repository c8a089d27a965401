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
        encode_between_steps(pipeline)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if vae_slicing:
        pipeline.vae.enable_slicing()
    if vae_tiling:
        pipeline.vae.enable_tiling()


def encode_between_steps(pipeline: Any) -> None:
    """Has the transformer leave the device for the text encoders.

    In a pipeline each network makes room for the next, and prompts come first. Here they come in between as well, and
    the two largest networks would be on the device at once.
    """
    hooks = {id(hook.model): hook for hook in pipeline._all_hooks}  # accelerate's UserCpuOffloadHook
    hooks[id(pipeline.text_encoder)].hook.prev_module_hook = hooks[id(pipeline.transformer)]
