"""The training pictures as latents, computed once: `python -m tools.tiny_flux.latents`."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from . import checkpoint
from .pictures import FONT
from .prompts import Scene, all_combinations, held_out_combinations
from .vae import CHECKPOINT, OUT, build_vae, pixels

LATENTS = OUT / "latents.pt"
_BATCH = 16


def training_scenes() -> list[Scene]:
    """The scenes in the order in which their latents are stored."""
    return [scene for scene in all_combinations() if not scene.held_out]


def trained_vae() -> AutoencoderKL:
    """The autoencoder with its averaged weights, float32."""
    vae = build_vae()
    vae.load_state_dict(checkpoint.load(CHECKPOINT)["ema"])
    return vae.eval()


@torch.no_grad()
def compute(font: Path) -> None:
    """Encode every training scene; measure shift and scale as FLUX's VAE config has them."""
    vae = trained_vae().to(memory_format=torch.channels_last)
    scenes = training_scenes()
    chunks = []
    started_s = time.monotonic()
    for first in range(0, len(scenes), _BATCH):
        batch = torch.stack([pixels(scene, font) for scene in scenes[first : first + _BATCH]])
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(batch.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        chunks.append(mean.float().contiguous())
    latents = torch.cat(chunks)  # [scenes, 16, 16, 16]
    shift, scale = latents.mean().item(), 1 / latents.std().item()
    normal = ((latents - shift) * scale).to(torch.float16)
    checkpoint.save(LATENTS, {"latents": normal, "shift": shift, "scale": scale})
    seconds = time.monotonic() - started_s
    print(f"latents {tuple(normal.shape)} shift {shift:.4f} scale {scale:.4f} {seconds:.0f} s", flush=True)


@torch.no_grad()
def fidelity(font: Path) -> float:
    """Mean signal-to-noise ratio in dB of held-out pictures through the autoencoder, float32, peak 255."""
    vae = trained_vae()
    decibels = []
    for scene in held_out_combinations():
        picture = pixels(scene, font)[None]
        output = vae.decode(vae.encode(picture).latent_dist.mean).sample.clamp(-1, 1)
        decibels.append(10 * math.log10(4 / (output - picture).square().mean().item()))
    return sum(decibels) / len(decibels)


def main() -> None:
    """Command line: measure the autoencoder, then use it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, default=FONT)
    options = parser.parse_args()
    print(f"held-out pictures: {fidelity(options.font):.2f} dB", flush=True)
    compute(options.font)


if __name__ == "__main__":
    main()
