"""The benchmark's figures as JSON, as a table, and against what was aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from tools.bench.load import Load

Results = dict[str, dict[int, Load]]
"""By peer and number of clients, all rounds taken together."""


class Bare(TypedDict):
    """What bare.py prints."""

    loop: dict[str, float]
    alone_ms: list[float]


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that the project says of itself, as measured in this run."""

    text: str
    value: float
    bound: float
    at_most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def line(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return f"{self.text}: {self.value:.2f} (aim {sign} {self.bound:g}: {'met' if self.met else 'MISSED'})"


def merge(rounds: list[Load]) -> Load:
    return Load(
        [answer for load in rounds for answer in load.answers],
        sum(load.counted for load in rounds),
        sum(load.counted_s for load in rounds),
    )


def merge_bare(rounds: Sequence[Bare]) -> Bare:
    """Each batch size ran equally long in every round, so the mean is the rate of all rounds together."""
    return {
        "loop": {batch: statistics.fmean(bare["loop"][batch] for bare in rounds) for batch in rounds[0]["loop"]},
        "alone_ms": [latency for bare in rounds for latency in bare["alone_ms"]],
    }


def figures(load: Load) -> dict[str, float]:
    return {
        "requests": len(load.answers),
        "pictures_per_s": round(load.pictures_per_s, 3),
        "p50_ms": round(load.percentile_ms(50), 1),
        "p95_ms": round(load.percentile_ms(95), 1),
        "p99_ms": round(load.percentile_ms(99), 1),
        "p95_ms_of_4_steps": round(load.percentile_ms(95, steps=4), 1),
    }


def claims(
    results: Results, bare: Bare, alone_ms: dict[str, float], planning: dict[str, dict[str, float]]
) -> list[Claim]:
    """`alone_ms` are the medians of one 8-step request, by who was asked."""
    continuous = results["continuous"][16]
    lock, static = results["global lock"][16], results["static"][16]
    return [
        Claim(
            "continuous ÷ global lock, pictures/s at 16 clients",
            continuous.pictures_per_s / lock.pictures_per_s,
            1.8,
            at_most=False,
        ),
        Claim(
            "continuous ÷ bare loop at its best batch, pictures/s at 16 clients",
            continuous.pictures_per_s / max(bare["loop"].values()),
            0.9,
            at_most=False,
        ),
        Claim(
            "continuous ÷ static, p95 of the 4-step requests at 16 clients",
            continuous.percentile_ms(95, steps=4) / static.percentile_ms(95, steps=4),
            0.5,
            at_most=True,
        ),
        Claim(
            "one request alone, ms over calling the pipeline directly",
            alone_ms["server"] - alone_ms["pipeline"],
            15,
            at_most=True,
        ),
        Claim(
            "planning one step with 10,000 jobs queued, ms (99th percentile, slowest policy)",
            max(times["p99"] for times in planning.values()),
            1,
            at_most=True,
        ),
    ]


def table(results: Results) -> str:
    """Markdown, so that it can go into README.md as it is."""
    lines = ["| peer | clients | pictures/s | p50 ms | p95 ms | p99 ms | p95 ms of 4-step requests |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for peer, by_clients in results.items():
        for clients, load in by_clients.items():
            row = figures(load)
            lines.append(
                f"| {peer} | {clients} | {row['pictures_per_s']:.1f} | {row['p50_ms']:.0f} | {row['p95_ms']:.0f} "
                f"| {row['p99_ms']:.0f} | {row['p95_ms_of_4_steps']:.0f} |"
            )
    return "\n".join(lines)
