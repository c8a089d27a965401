"""All runs of one call of the lab: strategy after strategy, round after round, and what came of each so far."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from loadtest.failures import BadInput, Broken
from loadtest.lab.locust_process import Load, LocustRun
from loadtest.lab.progress import Progress
from loadtest.lab.result import Result, Run, result
from loadtest.lab.slo import Alone, Slo
from loadtest.server.gpus import Gpus
from loadtest.server.monitor import Monitor
from loadtest.server.strategies import Strategy
from loadtest.server.target import Target
from loadtest.traffic.mix import Mix
from loadtest.traffic.record import Record
from loadtest.traffic.samples import error_of
from tools.triton.api import ApiError

ALONE_EACH = 6
"""Requests of each entry of the mix that are sent alone, on average, to know what an SLO is a multiple of."""
ALONE_SEED, WARM_UP_SEED = 1_000_003, 2_000_003
"""Added to the seed, so that nobody's prompts are in the cache already when the measurement begins."""


class Server(Protocol):
    """Sets the server to a strategy. Reconfigurer, or Untouched."""

    def apply(self, strategy: Strategy) -> None: ...

    def restore(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    strategies: Sequence[Strategy]
    load: Load
    repeats: int
    warm_up: int
    slo_scale: float
    slo_ms: float | None
    """An absolute limit in place of the scale."""


@dataclass
class Campaign:
    """`run` adds to `runs` as it goes, so that they are there whatever ends it."""

    plan: Plan
    target: Target
    server: Server
    folder: Path
    """Where the records go."""
    progress: Progress
    server_version: str | None = field(init=False, default=None)
    gpus: Gpus = field(default_factory=Gpus)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    slo: Slo | None = None

    def __post_init__(self) -> None:
        with suppress(ApiError):  # it is not needed to measure
            self.server_version = self.target.api.version()

    def run(self) -> None:
        """Round after round through all strategies (A B A B …), since machines drift. Raises LabError."""
        for repeat in range(1, self.plan.repeats + 1):
            for strategy in self.plan.strategies:
                self.prepare(strategy)
                load = replace(self.plan.load, seed=self.plan.load.seed + repeat - 1)
                run = self.measure(strategy, load, repeat)
                if run.problem:
                    raise Broken(f"{strategy.name}, round {repeat}: {run.problem}")

    def results(self) -> list[Result]:
        """Of the strategies that have answered anything."""
        if self.slo is None:
            return []
        return [
            result(strategy, runs, self.slo)
            for strategy in self.plan.strategies
            if (runs := [run for run in self.runs.get(strategy.name, []) if run.samples])
        ]

    def prepare(self, strategy: Strategy) -> None:
        """Sets the server up, warms it up, and at the first time finds out what a request takes alone."""
        self.progress.begin(f"{strategy.name}: setting up")
        self.server.apply(strategy)
        warm = replace(self.plan.load, requests=self.plan.warm_up, rate=None, seed=self.plan.load.seed + WARM_UP_SEED)
        self._unmeasured(strategy, warm, "warming up")
        if self.slo is None:
            self.slo = self._slo(strategy)

    def measure(self, strategy: Strategy, load: Load, repeat: int, name: str = "") -> Run:
        """One run, which is in `runs` in any case."""
        title = f"{strategy.name} {name}".rstrip() + f", round {repeat}"
        self.progress.begin(title, load.requests)
        records = self._records(f"{strategy.name} {name} {repeat}")
        problem = "interrupted"
        monitor = Monitor(self.target, self.gpus)
        locust = LocustRun(self.target, load, records)
        try:
            with monitor, locust:
                problem = locust.wait(self._is_ready, self.progress.advance)
        finally:
            samples = locust.samples()
            span = min((s.intended for s in samples), default=0.0), max((s.ended for s in samples), default=0.0)
            run = Run(repeat, samples, monitor.use(*span), problem, monitor.readings(*span))
            self.runs.setdefault(strategy.name, []).append(run)
        good = sum(sample.ok for sample in samples)
        rate = good / run.seconds if run.seconds else 0.0
        self.progress.end(f"{title}: {good} of {load.requests} answered, {rate:.2f}/s{self._why(samples)}")
        return run

    def _slo(self, strategy: Strategy) -> Slo:
        if self.plan.slo_ms is not None:
            return Slo(absolute_ms=self.plan.slo_ms)
        requests = ALONE_EACH * len(Mix.load(self.plan.load.mix).entries)
        load = replace(self.plan.load.one_at_a_time(requests), seed=self.plan.load.seed + ALONE_SEED)
        samples = self._unmeasured(strategy, load, "one request at a time")
        return Slo(Alone.fit(samples), self.plan.slo_scale)

    def _unmeasured(self, strategy: Strategy, load: Load, what: str) -> list[Record]:
        self.progress.begin(f"{strategy.name}: {what}", load.requests)
        with LocustRun(self.target, load, self._records(f"{strategy.name} {what}")) as locust:
            problem = locust.wait(self._is_ready, self.progress.advance)
            samples = locust.samples()
        for sample in samples:
            code, text = error_of(sample)
            if code == "INVALID_ARGUMENT":
                raise BadInput(f"--mix {load.mix}: the server refuses {sample.name}: {text}")
        if problem or not any(sample.ok for sample in samples):
            raise Broken(f"{strategy.name}, {what}: {problem or 'no request succeeded'}{self._why(samples)}")
        return samples

    def _records(self, name: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.jsonl"

    def _is_ready(self) -> bool:
        return self.target.api.ready(self.target.model)

    @staticmethod
    def _why(samples: Sequence[Record]) -> str:
        """The most frequent error."""
        errors = Counter(": ".join(error_of(sample)) for sample in samples if not sample.ok)
        return "".join(f" ({count} × {text})" for text, count in errors.most_common(1))
