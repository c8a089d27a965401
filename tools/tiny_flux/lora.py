"""Train the LoRAs for flux-tiny, one for each style: `python -m tools.tiny_flux.lora`. The base stays as it is.

All is float32.
On a machine with two free cores, two runs with `--styles greyscale --threads 1` and `--styles outline --threads 1`
side by side take less time than one run for both.
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from . import checkpoint
from .export import MODEL
from .network import Network
from .pictures import FONT
from .style_latents import latents_of
from .styles import STYLES
from .transformer import Examples
from .vae import OUT

LORAS = Path("model_repository/flux/1/flux-tiny-loras")
LEARNING_RATE = 2e-3
WARM_UP = 50
BATCH = 8
LAYERS = (
    r"(single_)?transformer_blocks\.\d+\."
    r"(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
)
"""The linear layers of attention and feed-forward in all blocks, as a regular expression over their full names."""


@dataclass(frozen=True)
class Adapter:
    """The size of one LoRA. Its update of a layer is alpha / rank · B·A."""

    rank: int
    alpha: int


ADAPTERS = {"greyscale": Adapter(rank=8, alpha=16), "outline": Adapter(rank=16, alpha=16)}
"""Of each style. Ranks and factors differ, so that whoever serves both must get both right."""


def rate(step: int, steps: int) -> float:
    """Learning rate: warm-up, then half a cosine to nearly nothing."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))


def network_with_lora(pipe: FluxPipeline, examples: Examples, adapter: Adapter) -> Network:
    """The shipped networks as training calls them, frozen, with a fresh LoRA, which does nothing yet.

    Examples get the shipped CLIP tokenizer: the ids of its words are not those of one that is built anew.
    """
    examples.tokenizers.clip = pipe.tokenizer
    network = Network(examples.tokenizers)
    network.text_encoder, network.text_encoder_2 = pipe.text_encoder, pipe.text_encoder_2
    network.transformer = pipe.transformer
    network.requires_grad_(False)
    network.transformer.add_adapter(LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=LAYERS))
    return network


def train(style: str, options: argparse.Namespace) -> FluxTransformer2DModel:
    """The shipped transformer with the LoRA of a style, trained until the budget is used up. Raises FontMissing."""
    torch.manual_seed(options.seed)
    latents = latents_of(style, options.model, options.font)
    examples = Examples(latents, options.batch, options.seed, rank=0)
    pipe = FluxPipeline.from_pretrained(options.model, dtype=torch.float32)
    network = network_with_lora(pipe, examples, ADAPTERS[style])
    transformer = network.transformer
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    path = OUT / f"lora-{style}.pt"
    step = 0
    if options.resume and path.exists():
        state = checkpoint.load(path)
        set_peft_model_state_dict(transformer, state["lora"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]

    def save() -> None:
        lora = get_peft_model_state_dict(transformer)
        checkpoint.save(path, {"lora": lora, "optimizer": optimizer.state_dict(), "step": step})

    budget = checkpoint.Budget(options.steps, options.minutes)
    signal.signal(signal.SIGTERM, lambda *_: budget.end())
    started_s, losses = time.monotonic(), []
    while budget.left(step):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps)
        example = examples[step]
        tokens = example.tokens
        predicted = network(tokens.clip, tokens.t5, example.noisy, example.sigma, example.guidance)
        loss = (predicted - example.velocity).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"{style} step {step} loss {np.mean(losses):.4f} {time.monotonic() - started_s:.0f} s", flush=True)
            losses.clear()
        if budget.save_due():
            save()
    save()
    return transformer


def write(transformer: FluxTransformer2DModel, style: str, folder: Path) -> None:
    """Write the LoRA as float16 in the format of diffusers, with rank, alpha and layers as metadata."""
    weights = {name: value.to(torch.float16) for name, value in get_peft_model_state_dict(transformer).items()}
    metadata: dict[str, Any] = {
        "r": ADAPTERS[style].rank,
        "lora_alpha": ADAPTERS[style].alpha,
        "target_modules": LAYERS,
    }
    name = f"{style}.safetensors"
    FluxPipeline.save_lora_weights(
        folder, transformer_lora_layers=weights, weight_name=name, transformer_lora_adapter_metadata=metadata
    )
    (folder / name).chmod(0o644)  # safetensors makes files that only their owner may read
    print(f"{folder / name}: {(folder / name).stat().st_size / 2**20:.2f} MB", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=list(STYLES))
    parser.add_argument("--steps", type=int, default=1000, help="for each style; the learning rate follows it")
    parser.add_argument("--minutes", type=float, help="for each style; go on later with the same command")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--folder", type=Path, default=LORAS)
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for style in options.styles:
        write(train(style, options), style, options.folder)


if __name__ == "__main__":
    main()
