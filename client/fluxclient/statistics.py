"""What a server has done with a model, read from its metrics.

Triton's own statistics of a decoupled model end when a request is handed over, so they say nothing of queues and times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from fluxclient.errors import ServerError
from fluxclient.transport.interface import ModelConfig


@dataclass(frozen=True)
class Statistics:
    """Sums over all instances of the model, since the server first loaded it."""

    server: str
    """Its name and release, as in "triton 2.51.0"."""
    model: str
    instances: int
    requests: Mapping[str, int]
    """Answered requests by outcome: "ok", or an error's code in lower case."""
    images: int
    """Finished pictures."""
    dropped_images: Mapping[str, int]
    """Pictures given up before they were finished, by an error's code in lower case."""
    waiting: int
    """Pictures in the queue now."""
    running: int
    """Pictures that are being drawn now."""
    steps: int
    """Denoising steps of single pictures."""
    mean_batch: float
    """Pictures in a denoising step, on average over all steps; 0 before the first."""
    prompt_cache_hits: int
    prompt_cache_misses: int
    checkpoint: str = ""
    """The one that is served, by its folder or hub name; "" of a server that does not say."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """What requests get that do not say, by input of the model."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The most that they may ask for."""


def read_statistics(metrics: str, server: str, model: str, config: ModelConfig) -> Statistics:
    """Raises ServerError for a text that is not in Prometheus' format."""
    sums: dict[str, float] = {}
    requests: dict[str, int] = {}
    dropped: dict[str, int] = {}
    options: dict[str, dict[str, float]] = {"flux_default": {}, "flux_limit": {}}
    loaded_s: dict[str, float] = {}
    try:
        samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    except ValueError as error:
        raise ServerError(f"cannot be read: {error}", field="metrics") from error
    for sample in samples:
        if sample.labels.get("model") != model:
            continue
        if sample.name in options:  # each instance says the same
            options[sample.name][sample.labels["option"]] = sample.value
        if sample.name == "flux_checkpoint_loaded_seconds":
            loaded_s[sample.labels["name"]] = sample.value
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        for name, label, counts in (
            ("flux_requests_total", "outcome", requests),
            ("flux_dropped_images_total", "cause", dropped),
        ):
            if sample.name == name:
                key = sample.labels[label]
                counts[key] = counts.get(key, 0) + int(sample.value)

    def total(name: str) -> int:
        return int(sums.get(name, 0))

    steps = sums.get("flux_step_batch_size_count", 0.0)
    return Statistics(
        server=server,
        model=model,
        instances=_instances(config),
        requests=requests,
        images=total("flux_images_total"),
        dropped_images=dropped,
        waiting=total("flux_jobs_waiting"),
        running=total("flux_jobs_running"),
        steps=total("flux_steps_total"),
        mean_batch=sums.get("flux_step_batch_size_sum", 0.0) / steps if steps else 0.0,
        prompt_cache_hits=total("flux_prompt_cache_hits_total"),
        prompt_cache_misses=total("flux_prompt_cache_misses_total"),
        checkpoint=max(loaded_s, key=loaded_s.__getitem__, default=""),
        defaults=options["flux_default"],
        limits=options["flux_limit"],
    )


def _instances(config: ModelConfig) -> int:
    groups = config.get("instance_group", [])
    return sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups)
