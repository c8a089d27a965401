"""From the parameter `model`, a folder or a hub name, to a loaded `Family`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from diffusers import FluxPipeline

from fluxengine.config import EngineConfig, parse_parameter
from fluxengine.errors import ConfigError, in_short
from fluxengine.families.base import Defaults, Family
from fluxengine.families.flux1.flux1 import Flux1
from fluxengine.load.attention import set_attention_backend
from fluxengine.load.checkpoint_folder import find_checkpoint
from fluxengine.load.network import NETWORKS, load_network
from fluxengine.load.placement import place
from fluxengine.load.precision import choose_dtype
from fluxengine.load.quantization import pipeline_options
from fluxengine.load.tokenizer import load_clip_tokenizer, load_t5_tokenizer
from fluxengine.wire.request import Limits

if TYPE_CHECKING:
    from fluxengine.compile.compiled_blocks import CompiledBlocks

SERVING_FILE = "serving.json"
"""Beside model_index.json, optional: what a checkpoint asks to be served with. Its keys are parameters, and so read."""

SERVING_KEYS = ("default_steps", "default_guidance", "default_size", "max_size", "max_sequence_length")


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
        pipeline = _load_pipeline(folder, config.variant, dtype, options)
    place(pipeline, device, config.offload, vae_slicing=config.vae_slicing, vae_tiling=config.vae_tiling)
    if config.attention_backend:
        set_attention_backend(pipeline.transformer, config.attention_backend, device)
    serving = _serving(folder)
    length = config.max_sequence_length or serving.max_sequence_length
    family = Flux1(pipeline, device, length, _compiled(config, pipeline))
    family.defaults = _with_serving(family.defaults, serving)
    return family


@contextmanager
def _about(config: EngineConfig) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"model is {config.model!r}: {error}") from error


def _load_pipeline(folder: Path, variant: str, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """A FluxPipeline of parts that are whole and fit each other, as `options` of `pipeline_options` want them."""
    quantization = options["quantization_config"].quant_mapping if "quantization_config" in options else {}
    parts = {
        name: options.get(name) or load_network(name, folder, variant, dtype, quantization.get(name))
        for name in NETWORKS
    }
    transformer, clip, t5 = (parts[name].config for name in ("transformer", "text_encoder", "text_encoder_2"))
    for ours, wanted, theirs in (
        ("text_encoder_2", transformer.joint_attention_dim, t5.d_model),
        ("text_encoder", transformer.pooled_projection_dim, clip.hidden_size),
        ("vae", transformer.in_channels // 4, parts["vae"].config.latent_channels),
    ):
        if wanted != theirs:
            raise ConfigError(f"transformer is for a {ours} of {wanted} channels, but {ours} has {theirs}")
    parts["tokenizer"] = load_clip_tokenizer(folder / "tokenizer", clip.vocab_size, clip.max_position_embeddings)
    parts["tokenizer_2"] = load_t5_tokenizer(folder / "tokenizer_2", t5.vocab_size)
    try:
        # What is left is the scheduler. The networks of IP adapters are not used.
        return FluxPipeline.from_pretrained(folder, dtype=dtype, image_encoder=None, feature_extractor=None, **parts)
    except Exception as error:  # of any library
        raise ConfigError(f"cannot be loaded: {in_short(error)}") from error


def limits_of(config: EngineConfig, defaults: Defaults) -> Limits:
    """What requests may ask for: the operator's word, or else the checkpoint's."""
    limits = Limits(
        default_steps=config.default_steps or defaults.steps,
        max_steps=config.max_steps,
        default_guidance=defaults.guidance if config.default_guidance is None else config.default_guidance,
        default_size=config.default_size or defaults.size,
        max_size=config.max_size or defaults.max_size,
        max_images=config.max_images,
        max_loras=config.max_loras,
    )
    if limits.default_steps > limits.max_steps:
        raise ConfigError(f"default_steps is {limits.default_steps}: more than max_steps ({limits.max_steps})")
    if any(edge > most for edge, most in zip(limits.default_size, limits.max_size, strict=True)):
        raise ConfigError(
            f"default_size (height, width) is {limits.default_size}: larger than max_size {limits.max_size}"
        )
    return limits


def _compiled(config: EngineConfig, pipeline: Any) -> CompiledBlocks | None:
    if config.compile == "off":
        return None
    from fluxengine.compile.compiled_blocks import CompiledBlocks  # torch's compiler takes seconds to import

    if config.offload != "none":
        raise ConfigError(f"compile is {config.compile!r}: needs offload none, as weights must stay where they are")
    return CompiledBlocks(pipeline.transformer, config.compile, config.max_batch, config.compile_cache)


def _serving(folder: Path) -> EngineConfig:
    """serving.json as parameters; those that it does not have are None."""
    path = folder / SERVING_FILE
    if not path.exists():
        return EngineConfig()
    try:
        serving = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(serving, dict):
        raise ConfigError(f"{path}: must be a JSON object")
    for key in serving:
        if key not in SERVING_KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}; known are {', '.join(SERVING_KEYS)}")
    values = {key: parse_parameter(key, str(value), f"{path}: {key!r}") for key, value in serving.items()}
    return EngineConfig(**values)  # type: ignore[arg-type]  # each parser gives its field's type


def _with_serving(defaults: Defaults, serving: EngineConfig) -> Defaults:
    return Defaults(
        steps=serving.default_steps or defaults.steps,
        guidance=defaults.guidance if serving.default_guidance is None else serving.default_guidance,
        size=serving.default_size or defaults.size,
        max_size=serving.max_size or defaults.max_size,
    )
