"""From the parameter `model`, a folder or a hub name, to a loaded `Family`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError, in_short
from fluxengine.families.base import Family
from fluxengine.families.checkpoint_kind import CheckpointKind
from fluxengine.load.attention import set_attention_backend
from fluxengine.load.checkpoint_folder import find_checkpoint, read_kind
from fluxengine.load.network import load_network
from fluxengine.load.placement import place
from fluxengine.load.precision import choose_dtype
from fluxengine.load.quantization import pipeline_options
from fluxengine.load.serving_file import read_serving, with_serving

if TYPE_CHECKING:
    from fluxengine.compile.compiled_blocks import CompiledBlocks


def load_family(config: EngineConfig, home: Path, device: torch.device) -> Family:
    """Loads the checkpoint onto `device`: `model` is a folder in `home`, any other folder, or a hub name.

    To be called by the thread that will use it: `device` becomes that thread's own, of its events and kernels too.
    Raises ConfigError when it cannot be found, or is not a FLUX that this engine knows.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _about(config):
        folder = find_checkpoint(config, home)
    dtype = choose_dtype(config.dtype, device)
    diffusers.utils.logging.disable_progress_bar()  # the server's log is not a terminal
    transformers.utils.logging.disable_progress_bar()
    options = pipeline_options(config.quantization, folder, home, device, dtype)
    with _about(config):
        kind = read_kind(folder)
        pipeline = _load_pipeline(kind, folder, config.variant, dtype, options)
    place(pipeline, device, config.offload, vae_slicing=config.vae_slicing, vae_tiling=config.vae_tiling)
    if config.attention_backend:
        set_attention_backend(pipeline.transformer, config.attention_backend, device)
    serving = read_serving(folder)
    length = config.max_sequence_length or serving.max_sequence_length
    family = kind.make(pipeline, device, length, _compiled(config, pipeline))
    family.defaults = with_serving(family.defaults, serving)
    return family


@contextmanager
def _about(config: EngineConfig) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"model is {config.model!r}: {error}") from error


def _load_pipeline(
    kind: CheckpointKind, folder: Path, variant: str, dtype: torch.dtype, options: Mapping[str, Any]
) -> Any:
    """A pipeline of parts that are whole and fit each other, as `options` of `pipeline_options` want them."""
    quantization = options["quantization_config"].quant_mapping if "quantization_config" in options else {}
    parts = {
        name: options.get(name) or load_network(folder / name, network, variant, dtype, quantization.get(name))
        for name, network in kind.networks.items()
    }
    kind.check(parts)
    parts |= {name: tokenizer.load(folder / name, parts) for name, tokenizer in kind.tokenizers.items()}
    try:
        # What is left is the scheduler. The networks of IP adapters are not used.
        return kind.pipeline.from_pretrained(folder, dtype=dtype, image_encoder=None, feature_extractor=None, **parts)
    except Exception as error:  # of any library
        raise ConfigError(f"cannot be loaded: {in_short(error)}") from error


def _compiled(config: EngineConfig, pipeline: Any) -> CompiledBlocks | None:
    if config.compile == "off":
        return None
    from fluxengine.compile.compiled_blocks import CompiledBlocks  # torch's compiler takes seconds to import

    if config.offload != "none":
        raise ConfigError(f"compile is {config.compile!r}: needs offload none, as weights must stay where they are")
    return CompiledBlocks(pipeline.transformer, config.compile, config.max_batch, config.compile_cache)
