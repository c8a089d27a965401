"""What the lab has to say: the figures, scores and advice of all strategies, and the words for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadtest.lab.intervals import Change
from loadtest.lab.result import Result, baseline_of, change
from loadtest.reporting.advice import Advice, advise
from loadtest.reporting.efficiency import NORMALISATION, Efficiency, efficiencies
from loadtest.reporting.table import number, table

COMPARED = ("throughput_per_s", "goodput_per_s", "mean_ms", "p50_ms", "p95_ms", "p99_ms")
"""The figures that have intervals and are compared with the baseline's."""
NAMES = {
    "throughput_per_s": "throughput",
    "goodput_per_s": "goodput",
    "mean_ms": "mean response",
    "p50_ms": "P50",
    "p95_ms": "P95",
    "p99_ms": "P99",
}


@dataclass(frozen=True)
class Report:
    """`results` are of at least one strategy; `config` is the document's `test_config`."""

    results: Sequence[Result]
    config: Mapping[str, Any]
    concurrent: int
    partial: str = ""
    """Why not everything was measured, if so."""

    @cached_property
    def baseline(self) -> Result:
        return baseline_of(self.results)

    @cached_property
    def efficiencies(self) -> list[Efficiency]:
        return efficiencies(self.results)

    @cached_property
    def best(self) -> Result:
        """The strategy with the highest efficiency score."""
        scores = [efficiency.score for efficiency in self.efficiencies]
        return self.results[scores.index(max(scores))]

    @cached_property
    def advice(self) -> list[list[Advice]]:
        """Of each strategy."""
        return [advise(of, concurrent=self.concurrent) for of in self.results]

    def changes(self, of: Result) -> dict[str, Change | None]:
        """Against the baseline, by figure; of the baseline itself none."""
        if of is self.baseline:
            return {}
        return {figure: change(of, self.baseline, figure) for figure in COMPARED}

    def text(self) -> str:
        """Tables in Markdown, so that they can go into a document as they are."""
        return "\n".join(self._lines())

    def rows(self) -> Iterator[list[str]]:
        """Of the main table, the head first."""
        head = ["strategy", "throughput/s", "success", "mean ms", "P50 ms", "P95 ms", "P99 ms", "within SLO"]
        yield [*head, f"use of {self.baseline.use.utilisation_of}", "efficiency"]
        for of, efficiency in zip(self.results, self.efficiencies, strict=True):
            its = of.pooled
            throughput, half = number(its.throughput_per_s, 2), of.interval("throughput_per_s")
            yield [
                of.strategy.name,
                throughput if half is None else f"{throughput} ± {half:.2f}",
                f"{its.success_rate:.1%}",
                *(number(value) for value in (its.mean_ms, its.p50_ms, its.p95_ms, its.p99_ms)),
                f"{its.slo_attainment:.1%}",
                number(of.use.utilisation_percent) + (" %" if of.use.utilisation_percent is not None else ""),
                f"{efficiency.score:.2f}",
            ]

    def stage_rows(self) -> Iterator[list[str]]:
        """Of the table that says where the time goes."""
        yield ["strategy", "first progress P50 ms", "queue ms", "encode ms", "denoise ms", "decode ms", "mean batch",
               "goodput/s", "fairness", "memory", "GPU"]  # fmt: skip
        for of in self.results:
            its, use = of.pooled, of.use
            batch = use.engine.mean_batch if use.engine is not None else its.mean_batch
            memory = "–" if use.server_memory_mb is None else f"{use.server_memory_mb:.0f} MB"
            yield [
                of.strategy.name,
                *(
                    number(value)
                    for value in (its.first_progress_p50_ms, its.queue_ms, its.encode_ms, its.denoise_ms, its.decode_ms)
                ),
                number(batch, 1),
                number(its.goodput_per_s, 2),
                number(of.fairness, 2),
                memory,
                use.gpu_note if use.gpu_percent is None else f"{use.gpu_percent:.0f} %",
            ]

    def change_rows(self) -> Iterator[list[str]]:
        """Of the table of changes against the baseline."""
        yield ["strategy", *(f"{NAMES[figure]}" for figure in COMPARED)]
        for of in self.results:
            if of is not self.baseline:
                yield [of.strategy.name, *(str(change or "–") for change in self.changes(of).values())]

    def verdict(self) -> str:
        """The best strategy and what it gains, in one sentence."""
        best = self.best
        score = max(efficiency.score for efficiency in self.efficiencies)
        if len(self.results) == 1:
            return f"Only {best.strategy.name} was measured; --strategies all compares."
        text = f"Best: {best.strategy.name}, with an efficiency score of {score:.2f}"
        if best is self.baseline:
            return f"{text}; it is what the others are compared with."
        gains = self.changes(best)
        of = f"against {self.baseline.strategy.name}"
        told = [f"{NAMES[figure]} {gains[figure] or '–'}" for figure in ("throughput_per_s", "mean_ms", "p95_ms")]
        real = gains["throughput_per_s"]
        doubt = "" if real is None or real.is_real is not False else ". The gain in throughput may be chance"
        return f"{text}; {of}: {', '.join(told)}{doubt}."

    def _lines(self) -> Iterator[str]:
        if self.partial:
            yield f"PARTIAL: {self.partial}\n"
        yield from table(list(self.rows()))
        yield ""
        yield from table(list(self.stage_rows()))
        if len(self.results) > 1:
            yield f"\nChanges against {self.baseline.strategy.name}, with 95 % confidence intervals from repeats:\n"
            yield from table(list(self.change_rows()))
        yield f"\n{self.verdict()}"
        for of, advice in zip(self.results, self.advice, strict=True):
            if advice:
                yield f"\nAdvice on {of.strategy.name}:"
                yield from (f"- {one}" for one in advice)
        yield f"\n{NORMALISATION}"
