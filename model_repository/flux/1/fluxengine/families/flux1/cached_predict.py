"""FLUX's transformer with a step cache: some rows are computed in full, the others stop behind the first block.

The parts are those of `FluxTransformer2DModel.forward` (diffusers/models/transformers/transformer_flux.py), in its
order; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fluxengine.families.base import StepCacheRows
from fluxengine.lora.layers import LoraLayers, LoraScales


def predict_with_step_cache(
    transformer: Any,
    inputs: Mapping[str, Any],  # as of the transformer's forward
    cache: StepCacheRows,
    layers: LoraLayers,
    loras: Sequence[LoraScales],
    rank: int,
) -> torch.Tensor:
    """The velocity [B, S, C]. Writes to the cache what the rows need at later steps.

    `rank` is that of the blocks' layers with `loras`, 0 if it need not be the same for all.
    """
    latents, pooled = inputs["hidden_states"], inputs["pooled_projections"]
    timestep, guidance = inputs["timestep"].to(latents.dtype) * 1000, inputs["guidance"]
    levels = (timestep,) if guidance is None else (timestep, guidance.to(latents.dtype) * 1000)
    rotary = transformer.pos_embed(torch.cat((inputs["txt_ids"], inputs["img_ids"]), dim=0))
    full = [row for row, reuses in enumerate(cache.reuse) if not reuses]
    with layers.applied(loras, rank=rank):
        embedded = transformer.x_embedder(latents)  # [B, S, D]
        temb = transformer.time_text_embed(*levels, pooled)  # [B, D]
        text = transformer.context_embedder(inputs["encoder_hidden_states"])  # [B, L, D]
        text, image = transformer.transformer_blocks[0](
            hidden_states=embedded, encoder_hidden_states=text, temb=temb, image_rotary_emb=rotary
        )
    # The first block may be a CUDA graph. While what it gave is held, those of the other blocks would be recorded as
    # its successors, for each pair of batch sizes.
    text, image = text.clone(), image.clone()
    first = image - embedded
    changes = (first.float() - cache.first.float()).abs().mean((1, 2))  # [B]
    distances = changes / cache.first.float().abs().mean((1, 2))
    whole = image + cache.rest  # [B, S, D], the outcome of all blocks where they are not computed
    if full:
        chosen = torch.tensor(full).to(latents.device, non_blocking=True)
        some = [loras[row] for row in full] if loras else ()
        with layers.applied(some, among=loras, rank=rank):
            computed = _other_blocks(transformer, image[chosen], text[chosen], temb[chosen], rotary)
        rest, first = computed - image[chosen], first[chosen]
        whole.index_copy_(0, chosen, computed)
    with layers.applied(loras, rank=rank):
        velocity: torch.Tensor = transformer.proj_out(transformer.norm_out(whole, temb))
    if full:  # from here on nothing can fail
        cache.rest.index_copy_(0, chosen, rest)
        cache.first.index_copy_(0, chosen, first)
    cache.distances.copy_(distances)
    return velocity


def _other_blocks(
    transformer: Any, image: torch.Tensor, text: torch.Tensor, temb: torch.Tensor, rotary: Any
) -> torch.Tensor:
    for block in transformer.transformer_blocks[1:]:
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=rotary)
    for block in transformer.single_transformer_blocks:
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=rotary)
    return image
