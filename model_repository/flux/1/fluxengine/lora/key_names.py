"""What the keys of a LoRA file name: the schemes that LoRAs for FLUX are published in, over the layers of a pipeline.

Layers are named as diffusers names its modules, or as Black Forest Labs' code does (kohya, ComfyUI, XLabs), where some
are several of diffusers' in one. Trainers write either with dots or with underscores, behind a prefix of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

NETWORKS = ("transformer", "text_encoder", "text_encoder_2")
"""Of a FluxPipeline, those that a LoRA can change: as diffusers, and `Lora`, call them."""

Half = Literal["down", "up"]

_PREFIXES = (  # the first that fits
    ("text_encoder.", "text_encoder"),  # diffusers
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),  # ComfyUI
    ("text_encoders.t5xxl.transformer.", "text_encoder_2"),
    ("lora_te_", "text_encoder"),  # kohya
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),  # OneTrainer
    ("lora_te3_", "text_encoder_2"),  # kohya
    ("transformer.", "transformer"),  # diffusers
    ("diffusion_model.", "transformer"),  # ComfyUI
    ("model.diffusion_model.", "transformer"),
    ("lora_unet_", "transformer"),  # kohya
    ("lora_transformer_", "transformer"),  # OneTrainer
    ("lycoris_", "transformer"),  # LyCORIS
    ("", "transformer"),  # the transformer's own save_lora_adapter; XLabs; Black Forest Labs
)

_KEY = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.lora_(?P<peft>[AB])(?:\.[^.]+)?\.weight"  # with or without the name of an adapter
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|[._]lora(?:_linear_layer)?(?P<stream>[12]?)\.(?P<old>down|up)\.weight"  # XLabs, diffusers before PEFT
    r"|\.(?P<alpha>alpha))"
)

_QKV, _ADDED_QKV = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

_DOUBLE = {
    "img_attn_qkv": _QKV,
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": _ADDED_QKV,
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
    # XLabs: `processor.qkv_lora1`
    "qkv1": _QKV,
    "proj1": ("attn.to_out.0",),
    "qkv2": _ADDED_QKV,
    "proj2": ("attn.to_add_out",),
}
_SINGLE = {
    "linear1": (*_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
    # XLabs: `processor.qkv_lora`
    "qkv": _QKV,
    "proj": ("proj_out",),
}
_OUTER = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in_out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in_in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer_linear": "proj_out",
}
_OUTER_SWAPPED = {"final_layer_adaLN_modulation_1": "norm_out.linear"}


@dataclass(frozen=True, slots=True)
class Target:
    """The linear layers, modules of one network, that a name stands for."""

    network: str
    layers: tuple[str, ...]
    """Their outputs one below the other are those that the name speaks of."""
    swapped: bool = False
    """Black Forest Labs' shift and scale are diffusers' scale and shift."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a file that is part of a LoRA."""

    network: str
    layer: str
    """Without any prefix, with underscores for dots: the same for the parts of one LoRA."""
    part: Half | Literal["alpha"]


def parse_key(key: str) -> Key | None:
    """None if it is of no LoRA, whatever the layer."""
    match = _KEY.fullmatch(key.replace(".processor.", "."))
    if match is None:
        return None
    half = match["kohya"] or match["old"] or {"A": "down", "B": "up"}.get(match["peft"])
    name = (match["layer"] + (match["stream"] or "")).removeprefix("base_model.model.")  # PEFT
    prefix, network = next(one for one in _PREFIXES if name.startswith(one[0]))
    layer = name.removeprefix(prefix).replace(".", "_")
    return Key(network, _without_model(layer), half or "alpha")  # type: ignore[arg-type]  # "down" or "up", as in _KEY


def other_half(key: str) -> str:
    """The key that belongs to `key`, which is one of a pair."""
    names = {"lora_A": "lora_B", "lora_B": "lora_A", "lora_down": "lora_up", "lora_up": "lora_down"}
    names |= {".down.": ".up.", ".up.": ".down."}
    found = max(names, key=key.rfind)
    return names[found].join(key.rsplit(found, 1))


def layer_names(pipeline: Any) -> dict[tuple[str, str], Target]:
    """By `Key.network` and `Key.layer`: all that a file for `pipeline` (a FluxPipeline) may name."""
    names = {}
    for network in NETWORKS:
        for layer, module in getattr(pipeline, network).named_modules():
            if isinstance(module, torch.nn.Linear):
                flat = _without_model(layer.replace(".", "_"))
                names[network, flat] = names[network, _of_old(flat)] = Target(network, (layer,))
    names.update((("transformer", name), target) for name, target in _of_black_forest_labs(pipeline.transformer))
    return names


def _without_model(layer: str) -> str:
    return layer.removeprefix("text_model_")  # CLIP's, in some releases of transformers


def _of_old(layer: str) -> str:
    """As diffusers named it before PEFT."""
    return re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", layer).replace("attn_to_out_0", "attn_to_out")


def _of_black_forest_labs(transformer: Any) -> Iterator[tuple[str, Target]]:
    for theirs, ours, layers in (
        ("double_blocks", "transformer_blocks", _DOUBLE),
        ("single_blocks", "single_transformer_blocks", _SINGLE),
    ):
        for block in range(len(getattr(transformer, ours))):
            for name, parts in layers.items():
                modules = tuple(f"{ours}.{block}.{part}" for part in parts)
                yield f"{theirs}_{block}_{name}", Target("transformer", modules)
    there = dict(transformer.named_modules())
    for name, layer in {**_OUTER, **_OUTER_SWAPPED}.items():
        if layer in there:  # not all have a guidance
            yield name, Target("transformer", (layer,), swapped=name in _OUTER_SWAPPED)
