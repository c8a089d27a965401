"""`fluxclient status`: how a server is and what it does."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from fluxclient.async_client import AsyncFluxClient
from fluxclient.cli.exit_codes import ExitCode
from fluxclient.cli.number_parsers import number
from fluxclient.cli.server_options import MetricsUrl, Model, Url, connect
from fluxclient.core import DEFAULT_MODEL, DEFAULT_URL
from fluxclient.errors import FluxError
from fluxclient.health import Health
from fluxclient.statistics import Statistics

_NAME_WIDTH = 12


@dataclass(frozen=True)
class Interval:
    """What a server did between two looks at its statistics."""

    seconds: float
    pictures_per_s: float
    steps_per_s: float
    """Steps of single pictures."""
    mean_batch: float | None
    """Pictures that shared a step, on average; None if there was no step."""

    @classmethod
    def between(cls, before: Statistics, after: Statistics, seconds: float) -> Interval | None:
        """None if the model was loaded again meanwhile: it counts from 0 then."""
        images, steps = after.images - before.images, after.steps - before.steps
        if images < 0 or steps < 0:
            return None
        batches = _batches(after) - _batches(before)
        return cls(seconds, images / seconds, steps / seconds, steps / batches if batches > 0 else None)


@dataclass(frozen=True)
class Status:
    """One look at a server."""

    url: str
    model: str
    health: Health
    statistics: Statistics | None
    interval: Interval | None
    problem: str = ""
    """Why there are no statistics."""

    def values(self) -> dict[str, object]:
        """For JSON."""
        return {
            "url": self.url,
            "model": self.model,
            **asdict(self.health),
            "statistics": asdict(self.statistics) if self.statistics else None,
            "interval": asdict(self.interval) if self.interval else None,
            "prompt_cache_hit_rate": _hit_rate(self.statistics) if self.statistics else None,
            "problem": self.problem,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        server = self.statistics.server if self.statistics else ""
        yield _line("server", f"{server} at {self.url}: {_state(self.health)}".strip())
        yield _line("model", f"{self.model}: {'ready' if self.health.model_ready else 'not ready'}")
        if self.health.detail:
            yield _line("because", " ".join(self.health.detail.split()))
        if self.statistics:
            yield from _statistics_lines(self.statistics)
        if self.interval:
            yield from _interval_lines(self.interval)
        if self.problem:
            yield _line("statistics", self.problem)


def status(
    interval: Annotated[
        float,
        typer.Option("--interval", parser=number(0.1), metavar="SECONDS", help="Over which throughput is measured."),
    ] = 1.0,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each look.")] = False,
    url: Url = DEFAULT_URL,
    model: Model = DEFAULT_MODEL,
    metrics_url: MetricsUrl = None,
) -> None:
    """Show whether a server is ready, and what it does.

    Where only its metrics cannot be reached, the rest is shown.
    """
    client = connect(url, model, retries=0, metrics_url=metrics_url)
    health = asyncio.run(_look(client, interval, watch, as_json))
    raise typer.Exit(ExitCode.DONE if health else ExitCode.NOT_READY)


async def _look(client: AsyncFluxClient, interval_s: float, watch: bool, as_json: bool) -> Health:
    async with client:
        if not watch:
            last = await _measure(client, interval_s)
            _print(last, as_json)
            return last.health
        if as_json or not sys.stdout.isatty():
            while True:
                _print(await _measure(client, interval_s), as_json)
        with Live(auto_refresh=False) as live:
            while True:
                live.update(Text("\n".join((await _measure(client, interval_s)).lines())), refresh=True)


async def _measure(client: AsyncFluxClient, interval_s: float) -> Status:
    """Takes as long as the interval, also if there is nothing to measure: a watcher comes again at once."""
    end_s = time.monotonic() + interval_s
    interval: Interval | None = None
    statistics: Statistics | None = None
    problem = ""
    health = await client.health()
    try:
        if health.live:
            before, start_s = await client.statistics(), time.monotonic()
            await asyncio.sleep(interval_s)
            statistics = await client.statistics()
            interval = Interval.between(before, statistics, time.monotonic() - start_s)
    except FluxError as error:
        problem = str(error)
    await asyncio.sleep(end_s - time.monotonic())
    return Status(client.url, client.model, health, statistics, interval, problem)


def _print(status: Status, as_json: bool) -> None:
    print(json.dumps(status.values()) if as_json else "\n".join(status.lines()), flush=True)


def _statistics_lines(statistics: Statistics) -> Iterator[str]:
    requests, dropped = _counts(statistics.requests), _counts(statistics.dropped_images)
    yield _line("instances", str(statistics.instances))
    yield _line("queue", f"{statistics.waiting:,} waiting, {statistics.running:,} running")
    yield _line("pictures", f"{statistics.images:,} so far" + (f"; given up: {dropped}" if dropped else ""))
    yield _line("requests", requests or "none so far")
    rate = _hit_rate(statistics)
    yield _line("cache hits", "no prompt so far" if rate is None else f"{rate:.0%} of prompts so far")


def _interval_lines(interval: Interval) -> Iterator[str]:
    over = f"over {interval.seconds:.1f} s"
    yield _line("throughput", f"{interval.pictures_per_s:.1f} pictures/s, {interval.steps_per_s:.1f} steps/s, {over}")
    mean = "no step" if interval.mean_batch is None else f"{interval.mean_batch:.1f} pictures a step"
    yield _line("mean batch", f"{mean}, {over}")


def _line(name: str, text: str) -> str:
    return f"{name:<{_NAME_WIDTH}}{text}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)


def _state(health: Health) -> str:
    return "ready" if health.ready else "live, but not ready" if health.live else "not reached"


def _hit_rate(statistics: Statistics) -> float | None:
    asked = statistics.prompt_cache_hits + statistics.prompt_cache_misses
    return statistics.prompt_cache_hits / asked if asked else None


def _batches(statistics: Statistics) -> float:
    """Steps of batches: `steps` counts those of each picture."""
    return statistics.steps / statistics.mean_batch if statistics.mean_batch else 0.0
