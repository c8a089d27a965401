#!/usr/bin/env bash
# diffusers 0.42.1: `from_pipe` without a dtype makes float32 of the parts that it takes over, also for the pipeline that
# they come from: one in bfloat16 then draws other pictures, in twice the memory.
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 numpy==1.26.4
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers import FluxImg2ImgPipeline, FluxPipeline

diffusers.utils.logging.set_verbosity_error()
transformer = FluxTransformer2DModel(
    num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1, joint_attention_dim=16,
    pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
)
vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1, latent_channels=16)
parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
pipeline = FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae=vae, transformer=transformer, **parts)
pipeline.to(torch.bfloat16)
print(f"diffusers {diffusers.__version__}: the transformer of a FluxPipeline is {pipeline.transformer.dtype}")
FluxImg2ImgPipeline.from_pipe(pipeline, torch_dtype=torch.bfloat16)
print(f"after FluxImg2ImgPipeline.from_pipe with that dtype: {pipeline.transformer.dtype}")
kept = pipeline.transformer.dtype
FluxImg2ImgPipeline.from_pipe(pipeline)
print(f"after FluxImg2ImgPipeline.from_pipe without a dtype: {pipeline.transformer.dtype}")
if (kept, pipeline.transformer.dtype) != (torch.bfloat16, torch.float32):
    raise SystemExit("that has changed")
PYTHON
