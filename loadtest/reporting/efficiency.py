"""One number for a strategy, to rank by; what it is made of stands beside it in every report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.lab.result import Result

THROUGHPUT_WEIGHT, RESPONSE_WEIGHT, UTILISATION_WEIGHT = 0.5, 0.3, 0.2

NORMALISATION = (
    f"Efficiency = {THROUGHPUT_WEIGHT} × throughput score + {RESPONSE_WEIGHT} × response score + "
    f"{UTILISATION_WEIGHT} × utilisation score, each from 0 to 1. Throughput score: the strategy's throughput ÷ the "
    "highest of this report. Response score: the shortest mean response time of this report ÷ the strategy's. "
    "Utilisation score: the mean use of the GPUs, or of the CPU where no GPU was seen, ÷ 100 %. So scores compare the "
    "strategies of one report, and not reports with each other."
)


@dataclass(frozen=True, slots=True)
class Efficiency:
    throughput: float
    response: float
    utilisation: float

    @property
    def score(self) -> float:
        return (
            THROUGHPUT_WEIGHT * self.throughput
            + RESPONSE_WEIGHT * self.response
            + UTILISATION_WEIGHT * self.utilisation
        )


def efficiencies(results: Sequence[Result]) -> list[Efficiency]:
    """Of each result, in their order. A strategy without an answer scores 0 for throughput and response."""
    fastest = max(of.pooled.throughput_per_s for of in results)
    shortest = min((of.pooled.mean_ms for of in results if of.pooled.mean_ms is not None), default=0.0)
    return [
        Efficiency(
            throughput=of.pooled.throughput_per_s / fastest if fastest else 0.0,
            response=shortest / of.pooled.mean_ms if of.pooled.mean_ms else 0.0,
            utilisation=min(1.0, (of.use.utilisation_percent or 0.0) / 100),
        )
        for of in results
    ]
