"""The pictures of a style as latents, computed once: an encoder tuned to the style, the shipped decoder untouched.

The shipped autoencoder has seen coloured pictures only: grey comes back from it as purple, because its encoder does not
find the latents from which its decoder draws grey. So a copy of the encoder is trained to find them. It serves to make
training data alone; pictures are drawn by the shipped decoder.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import checkpoint
from .latents import training_scenes
from .pictures import PICTURE_SIZE
from .prompts import Scene, held_out_combinations
from .styles import STYLES
from .vae import OUT

TUNED = ("greyscale",)
STEPS = 600
LEARNING_RATE = 1e-3
CROPS, WHOLE = 8, 3  # pictures a batch: crops, and whole pictures in the last third
CROP = 64  # pixels of a crop's sides
THING_SHARE = 0.7
EDGE_WEIGHT = 0.5
SIZE_WEIGHT = 1e-3  # of the mean square of normalised latents, which keeps them near those of the shipped encoder
_BATCH = 16


def latents_of(style: str, model: Path, font: Path) -> torch.Tensor:
    """Normalised latents of all training scenes in a style, [scenes, 16, 16, 16], float16; from the cache if there.

    Raises FontMissing.
    """
    path = OUT / f"latents-{style}.pt"
    if path.exists():
        cached: torch.Tensor = checkpoint.load(path)["latents"]
        return cached
    vae = AutoencoderKL.from_pretrained(model / "vae", dtype=torch.float32)
    vae = vae.to(memory_format=torch.channels_last)
    print(f"{style}: held-out pictures through the shipped autoencoder {fidelity(vae, style, font):.2f} dB", flush=True)
    if style in TUNED:
        tune(vae, style, font)
        print(f"{style}: with the tuned encoder {fidelity(vae, style, font):.2f} dB", flush=True)
    scenes = training_scenes()
    with torch.no_grad():
        chunks = [
            encode(vae, torch.stack([pixels(style, scene, font) for scene in scenes[first : first + _BATCH]]))
            for first in range(0, len(scenes), _BATCH)
        ]
    latents = torch.cat(chunks).contiguous()
    print(f"{style}: latents {tuple(latents.shape)} mean {latents.mean():.3f} std {latents.std():.3f}", flush=True)
    checkpoint.save(path, {"latents": latents.to(torch.float16)})
    return latents.to(torch.float16)


def pixels(style: str, scene: Scene, font: Path) -> torch.Tensor:
    """The picture of a scene in a style, [3, 128, 128], float32 in −1…1."""
    picture = np.array(STYLES[style](scene, font), dtype=np.float32)
    return torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1


def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Latents as the transformer sees them, [B, 16, H/8, W/8]."""
    mean = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist.mean
    latents: torch.Tensor = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Pictures from latents as the transformer gives them, [B, 3, H, W], about −1…1."""
    pictures: torch.Tensor = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return pictures


def tune(vae: AutoencoderKL, style: str, font: Path) -> None:
    """Train the encoder, in place, so that the decoder gives the pictures of a style."""
    vae.decoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.encoder.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    started_s, squared = time.monotonic(), []
    for step, batch in enumerate(_batches(style, font), 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 20) * (0.51 + 0.49 * math.cos(math.pi * step / STEPS))
        latents = encode(vae, batch)
        error = decode(vae, latents) - batch
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + error.square().mean() + EDGE_WEIGHT * edges + SIZE_WEIGHT * latents.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(vae.encoder.parameters(), 1.0)
        optimizer.step()
        squared.append(error.square().mean().item())
        if step % 50 == 0:
            seconds = time.monotonic() - started_s
            print(
                f"{style} encoder step {step} psnr {_decibel(sum(squared) / len(squared)):.2f} dB {seconds:.0f} s",
                flush=True,
            )
            squared.clear()


def _batches(style: str, font: Path) -> Iterator[torch.Tensor]:
    """STEPS batches, [B, 3, side, side]."""
    rng = random.Random(0)
    scenes = training_scenes()
    things = [scene for scene in scenes if scene.colour is None]
    for step in range(STEPS):
        count, side = (CROPS, CROP) if step < STEPS * 2 // 3 else (WHOLE, PICTURE_SIZE)
        batch = []
        for _ in range(count):
            scene = rng.choice(things if rng.random() < THING_SHARE else scenes)
            top, left = (8 * rng.randint(0, (PICTURE_SIZE - side) // 8) for _ in range(2))
            batch.append(pixels(style, scene, font)[:, top : top + side, left : left + side])
        yield torch.stack(batch)


@torch.no_grad()
def fidelity(vae: AutoencoderKL, style: str, font: Path) -> float:
    """Mean signal-to-noise ratio in dB of 60 held-out pictures of a style through the autoencoder, peak 255."""
    decibels = []
    for scene in random.Random(0).sample(held_out_combinations(), 60):
        picture = pixels(style, scene, font)[None]
        decibels.append(_decibel((decode(vae, encode(vae, picture)).clamp(-1, 1) - picture).square().mean().item()))
    return sum(decibels) / len(decibels)


def _decibel(squared: float) -> float:
    return 10 * math.log10(4 / squared)
