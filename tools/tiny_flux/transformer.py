"""Train the transformer and the text encoders together on latents: `python -m tools.tiny_flux.transformer`."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from . import checkpoint
from .latents import LATENTS, training_scenes
from .network import Network, Tokenizers, Tokens
from .optimizers import Optimizers
from .prompts import varied_caption
from .vae import OUT

CHECKPOINT = OUT / "transformer.pt"
LEARNING_RATE = 1e-3
WARM_UP = 200
BATCH = 32
EMA_SHARE = 0.1  # the averaged weights look back over the last tenth of the steps so far
THING_SHARE = 0.8  # of the pictures; shapes are learned much sooner than things
SHIFT = 3.0  # of the noise levels towards 1, more than the scheduler's: what is in the picture is decided there


@dataclass(frozen=True)
class Example:
    """One training batch."""

    tokens: Tokens
    noisy: torch.Tensor  # [B, 64, 64], packed
    velocity: torch.Tensor  # [B, 64, 64], noise − latents
    sigma: torch.Tensor  # [B]
    guidance: torch.Tensor  # [B]


class Examples:
    """Draws batches; batch number `step` is the same in every run with this seed."""

    def __init__(self, latents: torch.Tensor, batch: int, seed: int, rank: int) -> None:
        self._latents = latents  # [scenes, 16, 16, 16], normalised, float16
        self._batch = batch
        self._seed = f"{seed}/{rank}"
        self._scenes = training_scenes()
        self._things = sum(scene.colour is None for scene in self._scenes)
        self.tokenizers = Tokenizers()

    def __getitem__(self, step: int) -> Example:
        rng = random.Random(f"{self._seed}/{step}")
        torch_rng = torch.Generator().manual_seed(rng.getrandbits(63))
        rows, captions = [], []
        for _ in range(self._batch):
            is_thing = rng.random() < THING_SHARE
            row = rng.randrange(self._things) if is_thing else rng.randrange(self._things, len(self._scenes))
            rows.append(self._latents[row])
            captions.append(varied_caption(self._scenes[row], rng))
        latents = torch.stack(rows).float()
        noise = torch.randn(latents.shape, generator=torch_rng)
        middle = torch.sigmoid(torch.randn(self._batch, generator=torch_rng))
        even = torch.rand(self._batch, generator=torch_rng)
        level = torch.where(torch.rand(self._batch, generator=torch_rng) < 0.5, middle, even)
        sigma = SHIFT * level / (1 + (SHIFT - 1) * level)
        mix = sigma[:, None, None, None]
        return Example(
            self.tokenizers(captions),
            _pack((1 - mix) * latents + mix * noise),
            _pack(noise - latents),
            sigma,
            1 + 4 * torch.rand(self._batch, generator=torch_rng),
        )


def _pack(latents: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def rate(step: int, steps: int) -> float:
    """Learning rate: warm-up, then half a cosine to nearly nothing."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))


def train(options: argparse.Namespace, rank: int, rendezvous: str) -> None:
    """Train until the budget is used up; the averaged weights are in the checkpoint under "ema".

    Each of `options.workers` processes runs this with its own rank and one thread, on its share of the batch: on
    networks this small that is twice as fast as threads. Rank 0 keeps time, the averaged weights and the checkpoint.
    """
    torch.set_num_threads(1)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # plain attention in bfloat16, on the CPU too
    distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=options.workers, timeout=timedelta(days=7)
    )
    torch.manual_seed(options.seed)
    examples = Examples(checkpoint.load(LATENTS)["latents"], options.batch // options.workers, options.seed, rank)
    network = Network(examples.tokenizers)
    optimizers = Optimizers(network, options.muon, LEARNING_RATE)
    ema = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    step = 0
    path: Path = options.checkpoint
    if options.resume and path.exists():
        state = checkpoint.load(path)
        network.load_state_dict(state["model"])
        optimizers.load(state["optimizers"])
        ema, step = state["ema"], state["step"]

    def save() -> None:
        state = {"model": network.state_dict(), "ema": ema, "step": step, "optimizers": optimizers.state()}
        if rank == 0:
            checkpoint.save(path, state)

    shared = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
    budget = checkpoint.Budget(options.steps, options.minutes)
    signal.signal(signal.SIGTERM, lambda *_: budget.end())
    started_s, losses = time.monotonic(), []
    while _agreed(budget.left(step)):
        shared.zero_grad(set_to_none=True)
        example = examples[step]
        with torch.autocast("cpu", torch.bfloat16):
            tokens = example.tokens
            predicted = shared(tokens.clip, tokens.t5, example.noisy, example.sigma, example.guidance)
        loss = (predicted.float() - example.velocity).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizers.step(rate(step, options.steps))
        step += 1
        if rank == 0:
            with torch.no_grad():
                torch._foreach_lerp_(list(ema.values()), list(network.parameters()), min(1.0, 1 / (EMA_SHARE * step)))
            losses.append(loss.item())
            if step % 50 == 0:
                print(f"step {step} loss {np.mean(losses):.4f} {time.monotonic() - started_s:.0f} s", flush=True)
                losses.clear()
        if _agreed(budget.save_due()):
            save()
    save()
    distributed.destroy_process_group()


def _agreed(mine: bool) -> bool:
    """What rank 0 says, so that all processes do the same after the same step."""
    flag = torch.tensor([mine], dtype=torch.uint8)
    distributed.broadcast(flag, src=0)
    return bool(flag.item())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000, help="of the whole training; the learning rate follows it")
    parser.add_argument("--minutes", type=float, help="stop after this time; go on later with the same command")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        helpers = [
            multiprocessing.get_context("spawn").Process(target=train, args=(options, rank, rendezvous), daemon=True)
            for rank in range(1, options.workers)
        ]
        for helper in helpers:
            helper.start()
        train(options, 0, rendezvous)
        for helper in helpers:
            helper.join()


if __name__ == "__main__":
    main()
