"""A LoRA file as `Lora`: read by diffusers and PEFT into a model of the same shape that holds no weights.

So every format that diffusers reads is read here, and as it reads it, but the model that serves is not touched.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from peft.tuners.lora import LoraLayer

from fluxengine.errors import InvalidArgument
from fluxengine.lora import Lora, LowRank

_ADAPTER = "lora"

_one_at_a_time = threading.Lock()
"""transformers changes functions of torch while it builds a model."""

# It warns of every file that leaves the text encoder alone, as most do. What a file lacks is checked below.
logging.getLogger("diffusers.loaders.lora_base").setLevel(logging.ERROR)


def load_lora(path: Path, pipeline: Any, device: torch.device) -> Lora:
    """The LoRA in `path` for the networks of `pipeline` (a FluxPipeline), on `device` and in their dtypes.

    Raises InvalidArgument when the file is broken, made for another model, or of a kind that is not served (DoRA,
    biases, normalisation layers: those would change the rows of others).
    """
    with _one_at_a_time:
        shell = _shell_with_lora(path, pipeline)
    if getattr(shell.transformer, "_transformer_norm_layers", None):
        raise InvalidArgument("lora", f"{path.stem!r} changes normalisation layers, which is not supported")
    lora = Lora(
        name=path.stem,
        transformer=_low_ranks(path.stem, shell.transformer, pipeline.transformer, device),
        text_encoder=_low_ranks(path.stem, shell.text_encoder, pipeline.text_encoder, device),
    )
    if not lora.transformer and not lora.text_encoder:
        raise InvalidArgument("lora", f"{path.stem!r} has no weights for this model")
    return lora


def _shell_with_lora(path: Path, pipeline: Any) -> Any:
    """A pipeline without any weights but the LoRA's."""
    parts = {"vae": None, "scheduler": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    transformer, text_encoder = _weightless(pipeline.transformer), _weightless(pipeline.text_encoder)
    shell = FluxPipeline(transformer=transformer, text_encoder=text_encoder, **parts)
    try:
        # low_cpu_mem_usage would replace a method of torch.nn.Module for as long as it takes, for all threads.
        shell.load_lora_weights(
            str(path.parent),
            weight_name=path.name,
            adapter_name=_ADAPTER,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # whatever diffusers, PEFT or safetensors stumble over in a file of somebody else's
        raise InvalidArgument("lora", f"{path.stem!r} cannot be used: {type(error).__name__}: {error}") from error
    return shell


def _weightless(network: Any) -> Any:
    """A network of the same shape, whose weights all are one and the same number in memory."""
    kind = type(network)
    with torch.device("meta"):
        build = kind.from_config if hasattr(kind, "from_config") else kind._from_config  # of diffusers, of transformers
        copy = build(network.config)
    for module in copy.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            shared = torch.zeros((), dtype=network.dtype).expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(shared, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
    return copy


def _low_ranks(name: str, shell: Any, network: Any, device: torch.device) -> dict[str, LowRank]:
    found = {}
    for layer, module in shell.named_modules():
        if not isinstance(module, LoraLayer) or _ADAPTER not in module.scaling:
            continue
        if module.use_dora.get(_ADAPTER) or module.lora_bias.get(_ADAPTER) or _ADAPTER not in module.lora_A:
            raise InvalidArgument(
                "lora", f"{name!r} is no plain LoRA at {layer} (DoRA, bias, convolution or embedding)"
            )
        target = network.get_submodule(layer)
        if not isinstance(target, torch.nn.Linear):
            raise InvalidArgument("lora", f"{name!r} changes {layer}, which is no linear layer")
        down: Any = module.lora_A[_ADAPTER].weight
        up: Any = module.lora_B[_ADAPTER].weight
        wanted = (target.out_features, target.in_features)
        if (up.shape[0], down.shape[1]) != wanted or up.shape[1] != down.shape[0]:
            raise InvalidArgument(
                "lora",
                f"{name!r} is made for another model: {layer} has {wanted[1]} inputs and {wanted[0]} outputs, "
                f"the LoRA {tuple(down.shape)} and {tuple(up.shape)}",
            )
        if not (bool(down.isfinite().all()) and bool(up.isfinite().all())):
            raise InvalidArgument("lora", f"{name!r} has values at {layer} that are no numbers")
        found[layer] = LowRank(
            down.detach().to(device, network.dtype), up.detach().to(device, network.dtype), module.scaling[_ADAPTER]
        )
    return found
