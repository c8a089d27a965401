"""Whether a server that works for long keeps its memory: `python -m tools.bench.soak`.

Thousands of requests of every kind, at 16 at once: sizes, steps, LoRAs, negative prompts, image to image, callers that
leave, bad input. The resident memory of the model's process is read all along, without what it shares with Triton for
tensors on their way, which grows to the most that was ever needed. Once everything has been used for the first time it
must stay flat. Exit code 1 if it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil

from tools.bench.peers import PROJECT
from tools.bench.traffic import traffic
from tools.triton.server import TritonServer
from tools.triton.stub import living_instances

CLIENTS = 16
SIZES = ((128, 128), (128, 128), (128, 192), (256, 256), (64, 96))
SETTLED_SHARE = 0.25
"""Of the requests, after which every kind has been used often enough."""

ALLOWED_GROWTH = 0.02
SAMPLE_S = 0.25
"""Memory rises and falls by a tenth with the batch that is drawn: only means over many samples compare."""


def bodies(requests: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Requests of every kind; about one in twenty is wrong and one in twenty is left by its caller."""
    rng = random.Random(seed)
    image = base64.b64encode((PROJECT / "docs" / "demo.png").read_bytes()).decode()
    for wanted in traffic(requests, seed)[:requests]:
        height, width = rng.choice(SIZES)
        body = {**wanted.body(), "height": height, "width": width, "priority": rng.randint(1, 4)}
        kind = rng.random()
        if kind < 0.3:
            body["lora"] = rng.choice(("greyscale", "outline", "greyscale:0.5,outline:0.5"))
        elif kind < 0.45:
            body |= {"negative_prompt": "a small red circle on a white background", "true_cfg_scale": 2.0}
        elif kind < 0.6:
            body |= {"image": image, "strength": 0.6}
        elif kind < 0.65:
            body["lora"] = "no-such-lora"
        elif kind < 0.7:
            body["leaves"] = True
        yield body


async def send_all(url: str, requests: int, process: psutil.Process) -> list[tuple[int, int]]:
    """(requests answered, resident bytes of its own) all along."""
    todo = bodies(requests)
    seen: list[tuple[int, int]] = []
    done = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            nonlocal done
            for body in todo:
                leaves = body.pop("leaves", False)
                timeout = aiohttp.ClientTimeout(total=0.1 if leaves else 300)
                try:
                    async with session.post(url, json=body, timeout=timeout) as response:
                        text = await response.text()
                        right = response.status == 200 or body.get("lora") == "no-such-lora"
                        if not right:
                            raise RuntimeError(f"{response.status}: {text[:300]}")
                except asyncio.TimeoutError:
                    if not leaves:
                        raise
                done += 1

        clients = asyncio.gather(*(client() for _ in range(CLIENTS)))
        told = 0
        while not clients.done():
            await asyncio.wait([clients], timeout=SAMPLE_S)
            memory = process.memory_info()
            seen.append((done, memory.rss - memory.shared))
            if done >= told + 50:
                told = done
                print(f"{done} requests, {seen[-1][1] / 1e6:.1f} MB", file=sys.stderr, flush=True)
        await clients
    return seen


def growth(seen: list[tuple[int, int]], requests: int) -> float:
    """By how much the last quarter's mean is above that of the first quarter once all is settled."""
    settled = [memory for done, memory in seen if done >= requests * SETTLED_SHARE]
    part = max(1, len(settled) // 4)
    return statistics.fmean(settled[-part:]) / statistics.fmean(settled[:part]) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=PROJECT / "out" / "soak.csv")
    options = parser.parse_args()
    with TritonServer(exit_timeout_s=5) as server:
        (stub,) = living_instances(server.stubs(), ["flux_0"])["flux_0"]
        url = f"{server.urls.http}/v2/models/flux/generate"
        seen = asyncio.run(send_all(url, options.requests, psutil.Process(stub.pid)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("requests,resident_bytes\n" + "".join(f"{done},{rss}\n" for done, rss in seen))
    grown = growth(seen, options.requests)
    print(f"{options.requests} requests: resident memory grew by {grown:.2%} (allowed {ALLOWED_GROWTH:.0%})")
    sys.exit(grown > ALLOWED_GROWTH)


if __name__ == "__main__":
    main()
