"""The limit, without any server: `python -m tools.bench.bare` prints JSON.

`loop`: pictures/s of the bare loop (encode B prompts, 8 steps of a batch of B, decode) for several B.
`alone_ms`: latencies of the pipeline called directly, one picture of 8 steps at a time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from fluxengine.config import EngineConfig
from fluxengine.families.base import Family
from fluxengine.load.checkpoint import load_family
from fluxengine.scheduler import DECODE_BATCH
from tools.bench.pipeline import Pipeline
from tools.bench.traffic import MEAN_STEPS, Wanted, traffic

BATCHES = (1, 2, 4, 8, 16, 32)
MIN_SECONDS = 4.0
ALONE = 30


def loop_pictures_per_s(family: Family, batch: int) -> float:
    """Pictures/s of whole batches of `batch`, all with the traffic's mean number of steps."""
    wanted = traffic(batch, seed=1)[:batch]
    _draw_batch(family, wanted)  # the first of a shape allocates
    start_s, drawn = time.perf_counter(), 0
    while time.perf_counter() - start_s < MIN_SECONDS:
        _draw_batch(family, wanted)
        drawn += batch
    return drawn / (time.perf_counter() - start_s)


def _draw_batch(family: Family, wanted: list[Wanted]) -> None:
    size = family.defaults.size
    schedule = family.schedule(size, round(MEAN_STEPS))
    none = [()] * len(wanted)
    conditionings = family.encode(family.tokenize([request.prompt for request in wanted]), none)
    conditioning = {name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]}
    prepared = [family.prepare(size, schedule, request.seed, None) for request in wanted]
    latents = torch.stack([family.admit(one, conditionings[:1])[0].latents for one in prepared])  # [B, S, C]
    guidance = torch.tensor([request.guidance_scale for request in wanted])
    for timestep, delta in zip(schedule.timesteps, schedule.deltas, strict=True):
        timesteps = torch.full((len(wanted),), timestep)
        velocity = family.predict(size, latents, timesteps, guidance, conditioning, none, None)
        latents = latents + delta * velocity
    for start in range(0, len(wanted), DECODE_BATCH):
        family.decode(size, latents[start : start + DECODE_BATCH])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        config = EngineConfig(model=str(options.model), dtype=options.dtype)
        family = load_family(config, options.model.parent, torch.device("cpu"))
        loop = {str(batch): loop_pictures_per_s(family, batch) for batch in BATCHES}
    pipeline = Pipeline(options.model, options.dtype, options.threads)
    alone_ms = []
    for request in [request for request in traffic(9 * ALONE, seed=2) if request.num_inference_steps == 8]:
        start_s = time.perf_counter()
        pipeline.draw(request)
        alone_ms.append((time.perf_counter() - start_s) * 1e3)
    print(json.dumps({"loop": loop, "alone_ms": alone_ms}))


if __name__ == "__main__":
    main()
