"""A closed loop of clients over HTTP: each sends its next request when its last is answered.

Throughput counts while all clients are busy, and not while the first pictures begin together or the last ones end.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from tools.bench.traffic import Wanted

PNG = b"\x89PNG\r\n\x1a\n"
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Answered:
    wanted: Wanted
    latency_ms: float
    file: bytes
    """The picture, as a PNG file."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run at one number of clients, or several of them taken together."""

    answers: list[Answered]
    counted: int
    """Answers while all clients were busy: from the time that each has been answered once to the last sending."""
    counted_s: float
    """How long that was."""

    @property
    def pictures_per_s(self) -> float:
        return self.counted / self.counted_s

    def percentile_ms(self, percent: float, steps: int | None = None) -> float:
        """Of all answers, or of those with `steps` steps: the smallest latency that `percent` % do not exceed."""
        latencies = sorted(
            answer.latency_ms for answer in self.answers if steps is None or answer.wanted.num_inference_steps == steps
        )
        return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))]


def run(url: str, wanted: Sequence[Wanted], clients: int) -> Load:
    """Sends all requests and checks that each answer is a picture. Raises RuntimeError on the first that is not."""
    return asyncio.run(_run(url, wanted, clients))


async def _run(url: str, wanted: Sequence[Wanted], clients: int) -> Load:
    todo = iter(wanted)
    answers: list[Answered] = []
    answered_s: list[float] = []
    sent_s: list[float] = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def client() -> None:
            for request in todo:  # one iterator for all: whoever is free takes the next
                sent_s.append(time.perf_counter())
                start_s = sent_s[-1]
                async with session.post(url, json=request.body()) as response:
                    body = await response.json(content_type=None)
                answered_s.append(time.perf_counter())
                file = base64.b64decode(body.get("image", ""))
                if response.status != 200 or not file.startswith(PNG):
                    raise RuntimeError(f"{url} answered {response.status}: {str(body)[:300]}")
                answers.append(Answered(request, (answered_s[-1] - start_s) * 1e3, file))

        await asyncio.gather(*(client() for _ in range(clients)))
    # Pictures that are half drawn at the end of this are made up for by those half drawn at its start.
    from_s, to_s = answered_s[clients - 1], sent_s[-1]
    return Load(answers, sum(from_s < at_s <= to_s for at_s in answered_s), to_s - from_s)
