"""All measurements of one call of the lab: strategy after strategy, round after round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtest.failures import BadInput, Broken
from loadtest.lab.load import Load
from loadtest.lab.locust_process import LocustProcess
from loadtest.lab.measurement import Measurement
from loadtest.lab.progress import Progress
from loadtest.lab.result import Result, result
from loadtest.lab.slo import Alone, Slo
from loadtest.server.gpus import Gpus
from loadtest.server.monitor import Monitor
from loadtest.server.reconfigurer import Reconfigurer, Untouched
from loadtest.server.strategies import Strategy
from loadtest.server.target import Target
from loadtest.traffic.mix import Mix
from loadtest.traffic.record import Record
from tools.triton.api import ApiError

ALONE_EACH = 6
"""Requests of each entry of the mix that are sent alone, on average, to know what an SLO is a multiple of."""
ALONE_SEED, WARM_UP_SEED = 1_000_003, 2_000_003
"""Added to the seed, so that nobody's prompts are in the cache already when the measurement begins."""


@dataclass
class Campaign:
    """`run` adds to `measurements` as it goes, so that they are there whatever ends it."""

    target: Target
    server: Reconfigurer | Untouched
    strategies: Sequence[Strategy]
    load: Load
    repeats: int
    """Rounds through all strategies; of a sweep, measurements of one rate at most."""
    warm_up: int
    """Requests."""
    slo_scale: float
    slo_ms: float | None
    """An absolute limit in place of the scale."""
    folder: Path
    """Where the records go."""
    progress: Progress
    server_version: str | None = field(init=False, default=None)
    gpus: Gpus = field(default_factory=Gpus)
    measurements: dict[str, list[Measurement]] = field(default_factory=dict)
    """By the names of the strategies."""
    slo: Slo | None = None

    def __post_init__(self) -> None:
        with suppress(ApiError):  # it is not needed to measure
            self.server_version = self.target.api.version()

    def run(self) -> None:
        """Round after round through all strategies (A B A B …), since machines drift. Raises LabError."""
        for repeat in range(1, self.repeats + 1):
            for strategy in self.strategies:
                self.prepare(strategy)
                load = replace(self.load, seed=self.load.seed + repeat - 1)
                measurement = self.measure(strategy, load, repeat)
                if measurement.problem:
                    raise Broken(f"{strategy.name}, round {repeat}: {measurement.problem}")

    def results(self) -> list[Result]:
        """Of the strategies that have answered anything."""
        if self.slo is None:
            return []
        return [
            result(strategy, found, self.slo)
            for strategy in self.strategies
            if (found := [each for each in self.measurements.get(strategy.name, []) if each.records])
        ]

    def prepare(self, strategy: Strategy) -> None:
        """Sets the server up, warms it up, and at the first time finds out what a request takes alone."""
        self.progress.begin(f"{strategy.name}: setting up")
        self.server.apply(strategy)
        warm = replace(self.load, requests=self.warm_up, rate=None, seed=self.load.seed + WARM_UP_SEED)
        self._unmeasured(strategy, warm, "warming up")
        if self.slo is None:
            self.slo = self._slo(strategy)

    def measure(self, strategy: Strategy, load: Load, repeat: int, name: str = "") -> Measurement:
        """One measurement, which is in `measurements` in any case."""
        title = f"{strategy.name} {name}".rstrip() + f", round {repeat}"
        self.progress.begin(title, load.requests)
        problem = "interrupted"
        monitor = Monitor(self.target, self.gpus)
        locust = LocustProcess(self.target, load, self._file(f"{strategy.name} {name} {repeat}"))
        try:
            with monitor, locust:
                problem = locust.wait(self._is_ready, self.progress.advance)
        finally:
            records = locust.records()
            span = min((of.intended for of in records), default=0.0), max((of.ended for of in records), default=0.0)
            found = Measurement(repeat, records, monitor.use(*span), problem, monitor.readings(*span))
            self.measurements.setdefault(strategy.name, []).append(found)
        good = sum(record.ok for record in records)
        rate = good / found.seconds if found.seconds else 0.0
        self.progress.end(f"{title}: {good} of {load.requests} answered, {rate:.2f}/s{self._why(records)}")
        return found

    def _slo(self, strategy: Strategy) -> Slo:
        if self.slo_ms is not None:
            return Slo(absolute_ms=self.slo_ms)
        requests = ALONE_EACH * len(Mix.load(self.load.mix).entries)
        load = replace(self.load.one_at_a_time(requests), seed=self.load.seed + ALONE_SEED)
        records = self._unmeasured(strategy, load, "one request at a time")
        return Slo(Alone.fit(records), self.slo_scale)

    def _unmeasured(self, strategy: Strategy, load: Load, what: str) -> list[Record]:
        self.progress.begin(f"{strategy.name}: {what}", load.requests)
        with LocustProcess(self.target, load, self._file(f"{strategy.name} {what}")) as locust:
            problem = locust.wait(self._is_ready, self.progress.advance)
            records = locust.records()
        for record in records:
            code, text = record.code_and_text
            if code == "INVALID_ARGUMENT":
                raise BadInput(f"--mix {load.mix}: the server refuses {record.name}: {text}")
        if problem or not any(record.ok for record in records):
            raise Broken(f"{strategy.name}, {what}: {problem or 'no request succeeded'}{self._why(records)}")
        return records

    def _file(self, name: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.jsonl"

    def _is_ready(self) -> bool:
        return self.target.api.ready(self.target.model)

    @staticmethod
    def _why(records: Sequence[Record]) -> str:
        """The most frequent error."""
        errors = Counter(": ".join(record.code_and_text) for record in records if not record.ok)
        return "".join(f" ({count} × {text})" for text, count in errors.most_common(1))
