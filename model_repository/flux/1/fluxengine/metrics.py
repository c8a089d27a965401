"""What the engine counts and times. Recording is cheap and never blocks; somebody else publishes what is drained."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

_TIMES_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 20e3, 60e3, 300e3)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    buckets: tuple[float, ...] = ()
    label: str = ""
    """The name of its one label, if it has any."""


REQUESTS = Metric(
    "flux_requests_total", "counter", "Requests answered, by outcome: ok or an error code", label="outcome"
)
IMAGES = Metric("flux_images_total", "counter", "Images finished")
DROPPED_IMAGES = Metric(
    "flux_dropped_images_total", "counter", "Images given up before they were finished, by cause", label="cause"
)
STEPS = Metric("flux_steps_total", "counter", "Denoising steps of single images")
REUSED_STEPS = Metric("flux_reused_steps_total", "counter", "Rows of steps that the step cache cut short")
LORAS = Metric("flux_loras_loaded", "gauge", "LoRAs in memory")
PREPARING = Metric("flux_jobs_preparing", "gauge", "Images accepted whose LoRAs or pictures are being read")
UPLOAD_BYTES = Metric("flux_upload_bytes", "gauge", "Host memory of pictures that came with requests and wait")
PROMPT_CACHE_HITS = Metric("flux_prompt_cache_hits_total", "counter", "Prompts whose embeddings were at hand")
PROMPT_CACHE_MISSES = Metric("flux_prompt_cache_misses_total", "counter", "Prompts that had to be encoded")
WAITING = Metric("flux_jobs_waiting", "gauge", "Images accepted that wait for a place in a batch")
RUNNING = Metric("flux_jobs_running", "gauge", "Images in the batches that are being denoised")
DEFAULTS = Metric("flux_default", "gauge", "What requests get that do not say, by option", label="option")
LIMITS = Metric("flux_limit", "gauge", "The most that a request may ask for, by option", label="option")
CHECKPOINT = Metric(
    "flux_checkpoint_loaded_seconds", "gauge", "Unix time of its load; the latest is served", label="name"
)
BATCH = Metric("flux_step_batch_size", "histogram", "Images in one denoising step", _BATCHES)
QUEUE_MS = Metric("flux_queue_ms", "histogram", "From arrival to the start of encoding, of one image", _TIMES_MS)
ENCODE_MS = Metric("flux_encode_ms", "histogram", "Text encoding, of one batch", _TIMES_MS)
STEP_MS = Metric("flux_step_ms", "histogram", "One denoising step, of one batch", _TIMES_MS)
DECODE_MS = Metric("flux_decode_ms", "histogram", "VAE decoding, of one batch", _TIMES_MS)
TOTAL_MS = Metric("flux_total_ms", "histogram", "From arrival to the finished pictures, of one request", _TIMES_MS)

METRICS = tuple(each for each in list(globals().values()) if isinstance(each, Metric))

Series = tuple[Metric, str]
"""A metric and the value of its label."""


@dataclass(slots=True)
class Drained:
    counters: dict[Series, float]
    """What each has grown by since the last drain."""
    gauges: dict[Series, float]
    observations: dict[Series, list[float]]


class Metrics:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def count(self, metric: Metric, amount: float = 1, label: str = "") -> None:
        with self._lock:
            self._counters[metric, label] += amount

    def set(self, metric: Metric, value: float, label: str = "") -> None:
        with self._lock:
            self._gauges[metric, label] = value

    def observe(self, metric: Metric, value: float) -> None:
        with self._lock:
            self._observations[metric, ""].append(value)

    def drain(self) -> Drained:
        """All that was recorded since the last call."""
        with self._lock:
            drained = Drained(dict(self._counters), dict(self._gauges), dict(self._observations))
            self._reset()
        return drained

    def _reset(self) -> None:
        self._counters: defaultdict[Series, float] = defaultdict(float)
        self._gauges: dict[Series, float] = {}
        self._observations: defaultdict[Series, list[float]] = defaultdict(list)
