"""The parts of a checkpoint of FLUX.1."""

from __future__ import annotations

import re

from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from fluxengine.errors import ConfigError
from fluxengine.families.checkpoint_kind import CheckpointKind, Network, Parts, Tokenizer
from fluxengine.families.flux1.flux1 import Flux1
from fluxengine.families.flux1.tokenizers import load_clip_tokenizer, load_t5_tokenizer

_OTHER_HALF_OF_CLIP = re.compile(r"vision_model\.|visual_projection\.|text_projection\.|logit_scale$")
"""In files that people put there as they are."""


def _check(parts: Parts) -> None:
    transformer, clip, t5 = (parts[name].config for name in ("transformer", "text_encoder", "text_encoder_2"))
    for ours, wanted, theirs in (
        ("text_encoder_2", transformer.joint_attention_dim, t5.d_model),
        ("text_encoder", transformer.pooled_projection_dim, clip.hidden_size),
        ("vae", transformer.in_channels // 4, parts["vae"].config.latent_channels),
    ):
        if wanted != theirs:
            raise ConfigError(f"transformer is for a {ours} of {wanted} channels, but {ours} has {theirs}")


FLUX1 = CheckpointKind(
    title="FLUX.1",
    pipeline=FluxPipeline,
    networks={
        "transformer": Network(FluxTransformer2DModel),
        "vae": Network(AutoencoderKL),
        "text_encoder": Network(CLIPTextModel, harmless=_OTHER_HALF_OF_CLIP),
        "text_encoder_2": Network(T5EncoderModel),
    },
    tokenizers={
        "tokenizer": Tokenizer(
            ("CLIPTokenizer", "CLIPTokenizerFast"),
            lambda folder, parts: load_clip_tokenizer(
                folder, parts["text_encoder"].config.vocab_size, parts["text_encoder"].config.max_position_embeddings
            ),
        ),
        "tokenizer_2": Tokenizer(
            ("T5Tokenizer", "T5TokenizerFast"),
            lambda folder, parts: load_t5_tokenizer(folder, parts["text_encoder_2"].config.vocab_size),
        ),
    },
    check=_check,
    make=Flux1,
)
