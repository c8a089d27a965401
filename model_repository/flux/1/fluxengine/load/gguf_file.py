"""What a GGUF file holds, by name and shape, against what the transformer of a checkpoint has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from fluxengine.errors import ConfigError
from fluxengine.load.network import check_weights


def check_gguf(path: Path, config: Path) -> None:
    """Raises ConfigError, naming the first weight, unless the file has those of a transformer with this configuration.

    Its names are diffusers' or, as in all that is published, those of Black Forest Labs' own code.
    """
    from gguf import GGUFReader  # optional

    with init_empty_weights():
        transformer: Any = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(config))
    wanted = {name: tuple(weight.shape) for name, weight in transformer.state_dict().items()}
    found = {
        tensor.name: torch.empty([int(edge) for edge in reversed(tensor.shape)], device="meta")
        for tensor in GGUFReader(path).tensors
    }
    left_over: set[str] = set()
    if not wanted.keys() & found.keys():
        try:
            converted = convert_flux_transformer_checkpoint_to_diffusers(found)
        except KeyError as error:
            raise ConfigError(f"{path.name} lacks {error}") from error
        left_over, found = set(found), converted
    check_weights(path.name, missing=wanted.keys() - found.keys(), unknown=left_over | (found.keys() - wanted.keys()))
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            in_file = list(found[name].shape)
            raise ConfigError(f"{path.name}: {name!r} is {in_file} in the file but {list(shape)} by config.json")
