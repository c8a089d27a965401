"""The same requests for every peer, from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from tools.tiny_flux.prompts import all_combinations, caption, held_out_combinations

STEPS = range(4, 13)
"""Each equally often, so that every run of a multiple of nine requests asks for 8 steps on average."""

MEAN_STEPS = sum(STEPS) / len(STEPS)


@dataclass(frozen=True, slots=True)
class Wanted:
    prompt: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    more: Mapping[str, object] = field(default_factory=dict)
    """Further inputs of the model."""

    def body(self) -> dict[str, object]:
        """As JSON for Triton's generate endpoint, and for the peer that copies it."""
        return {
            "prompt": self.prompt,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            **self.more,
        }


def traffic(requests: int, seed: int) -> list[Wanted]:
    """`requests` of them, rounded up to a multiple of nine; every prompt is another."""
    rng = random.Random(seed)
    rounds = -(-requests // len(STEPS))
    steps = [count for _ in range(rounds) for count in rng.sample(STEPS, len(STEPS))]
    scenes = rng.sample(list(all_combinations()), len(steps))
    return [
        Wanted(caption(scene), count, rng.choice((1.5, 2.5, 3.5, 4.5)), rng.randrange(2**32))
        for scene, count in zip(scenes, steps, strict=True)
    ]


def held_out_traffic(requests: int, steps: int, seed: int) -> list[Wanted]:
    """Prompts that flux-tiny was not trained on, all with the same number of steps."""
    rng = random.Random(seed)
    scenes = rng.sample(held_out_combinations(), requests)
    return [Wanted(caption(scene), steps, 3.5, rng.randrange(2**32)) for scene in scenes]
