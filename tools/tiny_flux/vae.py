"""Train the autoencoder: `python -m tools.tiny_flux.vae`. FLUX's shape (16 channels, 8× smaller), with light layers."""

from __future__ import annotations

import argparse
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import checkpoint
from .pictures import FONT, PICTURE_SIZE, draw
from .prompts import Scene, all_combinations

OUT = Path("out/tiny_flux")
CHECKPOINT = OUT / "vae.pt"
CHANNELS = (16, 32, 64, 96)
LEARNING_RATE = 6e-4
CROPS, WHOLE = 16, 6  # pictures a batch: crops of 64 pixels, whole pictures
KL_WEIGHT = 3e-4  # of the mean over latent values; enough that unused detail turns to noise
EDGE_WEIGHT = 0.5
WARM_UP = 100
EMA = 0.995


def build_vae() -> AutoencoderKL:
    """The autoencoder with fresh weights, 1.7 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=PICTURE_SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def pixels(scene: Scene, font: Path) -> torch.Tensor:
    """The picture of a scene, [3, 128, 128], float32 in −1…1."""
    picture = np.asarray(draw(scene, font), dtype=np.float32)
    return torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1


def batches(font: Path, seed: int, step: int, steps: int) -> Iterator[torch.Tensor]:
    """Batches from `step` on, [B, 3, H, W]: crops of 64 pixels at first, whole pictures in the last third."""
    training = [scene for scene in all_combinations() if not scene.held_out]
    things = [scene for scene in training if scene.colour is None]
    for index in range(step, steps):
        rng = np.random.default_rng((seed, index))
        side = 64 if index < steps * 2 // 3 else PICTURE_SIZE
        count = CROPS if side == 64 else WHOLE
        batch = torch.empty(count, 3, side, side)
        for row in range(count):
            pool = things if rng.random() < 0.8 else training
            picture = pixels(pool[rng.integers(len(pool))], font)
            margin = (PICTURE_SIZE - side) // 4  # crops stay near the middle, where the thing is
            top, left = rng.integers(margin, 3 * margin + 1, size=2) if margin else (0, 0)
            batch[row] = picture[:, top : top + side, left : left + side]
        yield batch


def loss_of(vae: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the mean squared error alone."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(batch).latent_dist
        output = vae.decode(posterior.sample()).sample
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    error = output.float() - batch
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    squared = error.square().mean()
    return error.abs().mean() + squared + EDGE_WEIGHT * edges + KL_WEIGHT * divergence, squared


def rate(step: int, steps: int) -> float:
    """Learning rate: a short warm-up, then half a cosine."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def train(steps: int, minutes: float | None, seed: int, font: Path, resume: bool) -> None:
    """Train until the budget is used up; the averaged weights are in the checkpoint under "ema"."""
    torch.manual_seed(seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    ema = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    step = 0
    if resume and CHECKPOINT.exists():
        state = checkpoint.load(CHECKPOINT)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step = state["ema"], state["step"]
        torch.set_rng_state(state["rng"])

    def save() -> None:
        state = {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step}
        checkpoint.save(CHECKPOINT, {**state, "rng": torch.get_rng_state()})

    budget = checkpoint.Budget(steps, minutes)
    signal.signal(signal.SIGTERM, lambda *_: budget.end())
    started_s, squared_sum = time.monotonic(), 0.0
    for batch in batches(font, seed, step, steps):
        if not budget.left(step):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss, squared = loss_of(vae, batch.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in vae.state_dict().items():
                ema[name].lerp_(value, 1 - decay)
        step += 1
        squared_sum += squared.item()
        if step % 50 == 0:
            decibel = 10 * math.log10(4 / (squared_sum / 50))
            print(f"vae step {step} psnr {decibel:.2f} dB {time.monotonic() - started_s:.0f} s", flush=True)
            squared_sum = 0.0
        if budget.save_due():
            save()
    save()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, help="stop after this time; go on later with the same command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    train(options.steps, options.minutes, options.seed, options.font, options.resume)


if __name__ == "__main__":
    main()
