"""FLUX.1 [dev], [schnell] and every checkpoint of their kind, as diffusers' FluxPipeline loads and runs it.

Each method mirrors one part of `FluxPipeline.__call__` (diffusers/pipelines/flux/pipeline_flux.py), with one row for
each job instead of one setting for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from fluxengine.errors import ConfigError
from fluxengine.families.base import Conditioning, Prepared, Row, Schedule, StepCacheRows, Tokens
from fluxengine.families.flux1.cached_predict import predict_with_step_cache
from fluxengine.lora.file import load_lora
from fluxengine.lora.layers import Lora, LoraLayers, LoraScales
from fluxengine.size import Size
from fluxengine.wire.inputs import FAMILY_INPUTS
from fluxengine.wire.limits import Defaults
from fluxengine.wire.picture_files import Picture

if TYPE_CHECKING:
    from fluxengine.compile.compiled_blocks import CompiledBlocks


class Flux1:
    """See `Family`. Shapes: S = image tokens (H/16 · W/16), C = 64 packed channels, L = max_sequence_length."""

    def __init__(
        self,
        pipeline: Any,  # a FluxPipeline in its place; its components are attributes that only exist at run time
        device: torch.device,
        max_sequence_length: int | None,
        compiled: CompiledBlocks | None = None,
    ) -> None:
        stochastic = pipeline.scheduler.config.get("stochastic_sampling", False)
        if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler) or stochastic:
            raise ConfigError(
                f"model: its scheduler is {type(pipeline.scheduler).__name__} (stochastic_sampling={stochastic}); "
                "must be a deterministic FlowMatchEulerDiscreteScheduler"
            )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.to(memory_format=torch.channels_last)  # a quarter faster on a CPU, and what cuDNN prefers
        self.pipeline = pipeline
        self.device = device
        self._compiled = compiled
        self.dtype: torch.dtype = pipeline.transformer.dtype
        self.guided = bool(pipeline.transformer.config.guidance_embeds)
        # FLUX.1 [schnell] was trained with 256 text tokens, [dev] with 512.
        self.max_sequence_length = max_sequence_length or (512 if self.guided else 256)
        self.defaults = Defaults(
            steps=28 if self.guided else 4,
            guidance=3.5 if self.guided else 0.0,
            size=(1024, 1024),
            max_size=(2048, 2048),
        )
        self.inputs = FAMILY_INPUTS
        self.schedule = lru_cache(maxsize=512)(self._schedule)
        self._image_ids = lru_cache(maxsize=64)(self._make_image_ids)
        self._transformer_loras = LoraLayers(pipeline.transformer, "transformer", compiled.layers if compiled else ())
        self._text_loras = LoraLayers(pipeline.text_encoder, "text_encoder")
        self._t5_loras = LoraLayers(pipeline.text_encoder_2, "text_encoder_2")
        self._text_ids = torch.zeros(self.max_sequence_length, 3, device=device, dtype=pipeline.text_encoder.dtype)

    def tokenize(self, prompts: Sequence[str]) -> list[Tokens]:
        ids: list[list[torch.Tensor]] = [[] for _ in prompts]
        left_out: list[dict[str, str]] = [{} for _ in prompts]
        for encoder, tokenizer, length in (
            ("text_encoder", self.pipeline.tokenizer, self.pipeline.tokenizer_max_length),
            ("text_encoder_2", self.pipeline.tokenizer_2, self.max_sequence_length),
        ):
            rows = tokenizer(
                list(prompts),
                padding="max_length",
                max_length=length,
                truncation=True,
                return_overflowing_tokens=True,  # as more rows, after that of their prompt
                return_offsets_mapping=True,
                return_tensors="pt",
            )
            known = [len(of_prompt) for of_prompt in ids]
            for row, n in enumerate(rows.overflow_to_sample_mapping.tolist()):
                if len(ids[n]) == known[n]:
                    ids[n].append(rows.input_ids[row])
                elif encoder not in left_out[n]:  # offsets of tokens that are not of the prompt are (0, 0)
                    places = rows.offset_mapping[row].tolist()
                    start = next((start for start, end in places if end), len(prompts[n]))
                    left_out[n][encoder] = prompts[n][start:].strip()
        return [Tokens(tuple(of_prompt), words) for of_prompt, words in zip(ids, left_out, strict=True)]

    def encode(self, prompts: Sequence[Tokens], loras: Sequence[LoraScales] = ()) -> list[Conditioning]:
        clip_ids, t5_ids = (torch.stack(ids).to(self.device) for ids in zip(*(one.ids for one in prompts), strict=True))
        with self._text_loras.applied(loras):
            pooled = self.pipeline.text_encoder(clip_ids, output_hidden_states=False).pooler_output  # [B, P]
        with self._t5_loras.applied(loras):
            embeds = self.pipeline.text_encoder_2(t5_ids, output_hidden_states=False)[0]  # [B, L, D]
        # Copies: a row that is kept for long would keep the whole batch in memory.
        return [
            {
                "pooled_projections": pooled[row].to(self.dtype, copy=True),
                "encoder_hidden_states": embeds[row].to(self.dtype, copy=True),
            }
            for row in range(len(prompts))
        ]

    def _schedule(self, size: Size, steps: int) -> Schedule:
        scheduler = deepcopy(self.pipeline.scheduler)
        config = scheduler.config
        mu = calculate_shift(
            _tokens(size),
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps).tolist()
        timesteps, _ = retrieve_timesteps(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
        deltas = scheduler.sigmas[1:] - scheduler.sigmas[:-1]  # float32, as the scheduler's own step subtracts
        return Schedule(tuple(timesteps.tolist()), tuple(scheduler.sigmas[:-1].tolist()), tuple(deltas.tolist()))

    def prepare(self, size: Size, schedule: Schedule, seed: int, source: Picture | None) -> Prepared:
        shape = (1, self.pipeline.transformer.config.in_channels // 4, size[0] // 8, size[1] // 8)
        generator = torch.Generator("cpu").manual_seed(seed)
        tensors = {}
        if source is not None:
            pixels = torch.from_numpy(source / np.float32(255) * 2 - 1)[None].permute(0, 3, 1, 2)  # [1, 3, H, W]
            tensors["pixels"] = pixels.to(self.dtype, memory_format=torch.channels_last)
            # As FluxImg2ImgPipeline.prepare_latents: first the VAE's posterior is drawn from, then the noise.
            tensors["posterior"] = torch.randn(shape, generator=generator, dtype=self.dtype)
        tensors["noise"] = torch.randn(shape, generator=generator, dtype=self.dtype)
        return Prepared(schedule, tensors)

    def admit(self, prepared: Prepared, conditionings: Sequence[Conditioning]) -> tuple[Row, ...]:
        vae = self.pipeline.vae
        tensors = {name: tensor.to(self.device) for name, tensor in prepared.tensors.items()}
        maps = tensors["noise"]  # [1, C/4, H/8, W/8]
        if "pixels" in tensors:
            posterior = vae.encode(tensors["pixels"]).latent_dist
            picture = posterior.mean + posterior.std * tensors["posterior"]
            picture = ((picture - vae.config.shift_factor) * vae.config.scaling_factor).contiguous()
            share = torch.tensor(prepared.schedule.sigmas[0], dtype=self.dtype, device=self.device)
            maps = share * maps + (1.0 - share) * picture  # as the scheduler's scale_noise rounds
        latents: torch.Tensor = FluxPipeline._pack_latents(maps, *maps.shape)[0]  # [S, C]
        return tuple(Row(latents, conditioning, prepared.schedule) for conditioning in conditionings)

    def cost(self, size: Size) -> float:
        return float(_tokens(size))

    def _make_image_ids(self, size: Size) -> torch.Tensor:
        ids: torch.Tensor = FluxPipeline._prepare_latent_image_ids(
            1, size[0] // 16, size[1] // 16, self.device, self.dtype
        )
        return ids  # [S, 3]

    def step_cache_shape(self, size: Size) -> tuple[int, int]:
        return _tokens(size), self.pipeline.transformer.inner_dim

    def predict(
        self,
        size: Size,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        guidance: torch.Tensor,
        conditioning: Conditioning,
        loras: Sequence[LoraScales] = (),
        step_cache: StepCacheRows | None = None,
    ) -> torch.Tensor:
        transformer, layers, compiled = self.pipeline.transformer, self._transformer_loras, self._compiled
        with compiled.step(size, layers.rank(loras)) if compiled else nullcontext(0) as rank:
            inputs = {
                "hidden_states": latents,
                "timestep": timesteps.to(self.dtype) / 1000,
                "guidance": guidance if self.guided else None,
                **conditioning,
                "txt_ids": self._text_ids,
                "img_ids": self._image_ids(size),
            }
            if step_cache is not None:
                return predict_with_step_cache(transformer, inputs, step_cache, layers, loras, rank)
            with layers.applied(loras, rank=rank):
                velocity: torch.Tensor = transformer(**inputs, return_dict=False)[0]
            return velocity

    def warm_up(self, size: Size) -> None:
        if self._compiled is None:
            return
        conditionings = self.encode(self.tokenize(["warm-up"]))
        (row,) = self.admit(self.prepare(size, self.schedule(size, 1), 0, None), conditionings)
        latents, conditioning, level = row.latents, row.conditioning, torch.zeros(1, device=self.device)
        with self._compiled.warming_up(size):
            for rows in self._compiled.warm_up_batches:
                batch = {name: tensor.expand(rows, *tensor.shape) for name, tensor in conditioning.items()}
                self.predict(size, latents.expand(rows, *latents.shape), level.expand(rows), level.expand(rows), batch)

    def close(self) -> None:
        if self._compiled is not None:
            self._compiled.close()

    def load_lora(self, path: Path) -> Lora:
        return load_lora(path, self.pipeline, self.device)

    def decode(self, size: Size, latents: torch.Tensor) -> torch.Tensor:
        return self._decode(FluxPipeline._unpack_latents(latents, *size, self.pipeline.vae_scale_factor))

    def preview(self, size: Size, latents: torch.Tensor, longest_edge: int) -> torch.Tensor:
        maps = FluxPipeline._unpack_latents(latents, *size, self.pipeline.vae_scale_factor)  # [B, 16, H/8, W/8]
        shrink = min(1.0, longest_edge / max(size))
        shape = [max(1, round(edge * shrink / 8)) for edge in size]
        return self._decode(torch.nn.functional.interpolate(maps.float(), shape, mode="area").to(self.dtype))

    def _decode(self, maps: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        maps = maps / vae.config.scaling_factor + vae.config.shift_factor
        pictures = vae.decode(maps.contiguous(memory_format=torch.channels_last), return_dict=False)[0]  # [B, 3, H, W]
        pictures = (pictures * 0.5 + 0.5).clamp(0, 1)  # in the model's dtype, as diffusers' image processor does
        levels: torch.Tensor = (pictures.permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8)
        return levels.cpu()


def _tokens(size: Size) -> int:
    return (size[0] // 16) * (size[1] // 16)
