"""What the server says of itself on /metrics: the engine's counters, and the machine's use where Triton measures it."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """/metrics at one moment; counters since the server's start, summed over the instances of the model."""

    images: float
    steps: float
    batches: float
    """Denoising steps of whole batches."""
    batch_images: float
    """Images in them."""
    cache_hits: float
    cache_misses: float
    waiting: float
    running: float
    gpu_percent: float | None
    gpu_memory_percent: float | None
    cpu_percent: float | None
    memory_percent: float | None


@dataclass(frozen=True, slots=True)
class Engine:
    """What the engine did between two scrapes."""

    images: int
    steps: int
    mean_batch: float | None
    cache_hits: int
    cache_misses: int

    @classmethod
    def total(cls, parts: Sequence[Engine]) -> Engine:
        """Of several spans; the mean batch is of all steps together."""
        batched = [part for part in parts if part.mean_batch]
        batches = sum(part.steps / part.mean_batch for part in batched if part.mean_batch)
        return cls(
            images=sum(part.images for part in parts),
            steps=sum(part.steps for part in parts),
            mean_batch=sum(part.steps for part in batched) / batches if batches else None,
            cache_hits=sum(part.cache_hits for part in parts),
            cache_misses=sum(part.cache_misses for part in parts),
        )


def scrape(url: str, model: str) -> Scrape:
    """Raises OSError or ValueError where there are no metrics."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        return read(response.read().decode(), model)


def read(text: str, model: str) -> Scrape:
    """Of Prometheus' text format. Raises ValueError for anything else."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("model", model) == model:
                values[sample.name].append(sample.value)

    def total(name: str) -> float:
        return sum(values[name])

    def percent(part: str, of: str) -> float | None:
        return 100 * total(part) / total(of) if total(of) else None

    def mean_percent(name: str) -> float | None:
        return 100 * total(name) / len(values[name]) if values[name] else None

    return Scrape(
        images=total("flux_images_total"),
        steps=total("flux_steps_total"),
        batches=total("flux_step_batch_size_count"),
        batch_images=total("flux_step_batch_size_sum"),
        cache_hits=total("flux_prompt_cache_hits_total"),
        cache_misses=total("flux_prompt_cache_misses_total"),
        waiting=total("flux_jobs_waiting"),
        running=total("flux_jobs_running"),
        gpu_percent=mean_percent("nv_gpu_utilization"),
        gpu_memory_percent=percent("nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"),
        cpu_percent=mean_percent("nv_cpu_utilization"),
        memory_percent=percent("nv_cpu_memory_used_bytes", "nv_cpu_memory_total_bytes"),
    )


def between(before: Scrape, after: Scrape) -> Engine:
    batches = after.batches - before.batches
    return Engine(
        images=int(after.images - before.images),
        steps=int(after.steps - before.steps),
        mean_batch=(after.batch_images - before.batch_images) / batches if batches > 0 else None,
        cache_hits=int(after.cache_hits - before.cache_hits),
        cache_misses=int(after.cache_misses - before.cache_misses),
    )
