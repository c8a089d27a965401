"""What the engine tells Triton's /metrics, after traffic that is known."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fluxengine.metrics import METRICS, Metric
from tests.server import wire
from tests.server.reference import Drawing, rows
from tests.server.servers import Measured, environment, grpc, http, samples, settled, started, until, until_idle
from tools.triton.server import TritonServer

ENDLESS = {"prompt": "measured for long", "num_inference_steps": 1000, "width": 256, "height": 256}


class Growth:
    """By how much the sums over all series have grown between two moments."""

    def __init__(self, before: Measured, after: Measured) -> None:
        self._before, self._after = before, after

    def __call__(self, metric: str, **labels: str) -> float:
        return self._after.total(metric, labels) - self._before.total(metric, labels)


def test_known_traffic(triton: TritonServer) -> None:
    """Three times the same prompt, one after another, then two new prompts of two images each in one request."""
    before = until_idle(triton)
    for steps in (3, 4, 5):
        wire.grpc_stream(grpc(triton), Drawing("measured again and again", steps).inputs)
    two = rows([Drawing("measured one", steps=2), Drawing("measured two", steps=2)])
    answer = wire.grpc_infer(grpc(triton), {**two, "num_images_per_prompt": [2, 2]})
    assert answer.error is None
    grown = Growth(before, until_idle(triton))

    assert grown("flux_requests_total", outcome="ok") == 4
    assert grown("flux_images_total") == 3 + 4
    assert grown("flux_dropped_images_total") == 0
    assert grown("flux_steps_total") == 3 + 4 + 5 + 4 * 2
    assert grown("flux_prompt_cache_misses_total") == 1 + 2
    assert grown("flux_prompt_cache_hits_total") == 2 + 2

    assert grown("flux_step_batch_size_count") == grown("flux_step_ms_count") == 3 + 4 + 5 + 2
    assert grown("flux_step_batch_size_sum") == grown("flux_steps_total")
    assert grown("flux_step_batch_size_bucket", le="1") == 3 + 4 + 5
    assert grown("flux_step_batch_size_bucket", le="2") == 3 + 4 + 5
    assert grown("flux_step_batch_size_bucket", le="4") == 3 + 4 + 5 + 2
    assert grown("flux_step_batch_size_bucket", le="+Inf") == 3 + 4 + 5 + 2

    assert grown("flux_queue_ms_count") == 7
    assert grown("flux_encode_ms_count") == 4
    assert grown("flux_decode_ms_count") == 4
    assert grown("flux_total_ms_count") == 4
    parts_ms = sum(grown(f"flux_{part}_ms_sum") for part in ("encode", "step", "decode"))
    assert 0 < parts_ms <= grown("flux_total_ms_sum"), "what one request after another is spent on"


def test_requests_by_outcome(triton: TritonServer) -> None:
    before = until_idle(triton)
    for n in range(3):
        wire.generate(http(triton), {"prompt": "wrong", "seed": -1 - n})
    wire.grpc_stream(grpc(triton), {**ENDLESS, "deadline_ms": 200})
    with wire.GrpcStream(grpc(triton)) as stream:
        stream.send("gone", {**ENDLESS, "progress": True})
        stream.wait_for("gone", lambda answer: answer.events)
    grown = Growth(before, until_idle(triton))
    assert grown("flux_requests_total", outcome="invalid_argument") >= 3
    assert grown("flux_requests_total", outcome="deadline_exceeded") == 1
    assert grown("flux_requests_total", outcome="cancelled") == 1
    assert grown("flux_requests_total", outcome="ok") == 0
    assert grown("flux_dropped_images_total", cause="deadline_exceeded") == 1
    assert grown("flux_dropped_images_total", cause="cancelled") == 1
    assert grown("flux_images_total") == grown("flux_total_ms_count") == 0


def test_who_runs_and_who_waits(triton: TritonServer) -> None:
    """max_batch is 16."""
    until_idle(triton)
    with wire.GrpcStream(grpc(triton)) as stream:
        for n in range(10):
            stream.send(f"{n}", {**ENDLESS, "num_images_per_prompt": 2})
        until(lambda: Measured(triton).total("flux_jobs_waiting") == 4, "four images in line")
        assert settled(triton).total("flux_jobs_running") == 16
    after = until_idle(triton)
    assert (after.total("flux_jobs_running"), after.total("flux_jobs_waiting")) == (0, 0)


@pytest.fixture(scope="module")
def exposition(triton: TritonServer) -> str:
    """The text of /metrics once everything has happened that is counted."""
    wire.grpc_stream(grpc(triton), {"prompt": "drawn"})
    wire.grpc_stream(grpc(triton), {"prompt": "drawn"})
    wire.grpc_stream(grpc(triton), {**ENDLESS, "deadline_ms": 200})
    settled(triton)
    with urllib.request.urlopen(triton.urls.metrics, timeout=wire.ANSWER_S) as response:
        text: str = response.read().decode()
    return text


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_is_described_and_labelled(metric: Metric, exposition: str) -> None:
    assert f"# HELP {metric.name} {metric.description}\n" in exposition
    assert f"# TYPE {metric.name} {metric.kind}\n" in exposition
    name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
    series = [labels for found, labels, _ in samples(exposition) if found == name]
    assert series
    for labels in series:
        assert labels["model"] == "flux"
        assert labels["instance"] == "flux_0_0"
        assert set(labels) == {"model", "instance"} | ({metric.label} if metric.label else set())


def test_the_server_serves_without_metrics(checkpoint: Path) -> None:
    with started(environment=environment(model=str(checkpoint)), arguments=("--allow-metrics=false",)) as server:
        for _ in range(5):  # longer than until the engine first publishes what it has measured
            assert wire.grpc_stream(grpc(server), {**Drawing("unmeasured", steps=100).inputs}).error is None
        assert wire.grpc_infer(grpc(server), {"prompt": "unmeasured"}).error is None
        with pytest.raises(urllib.error.URLError):
            Measured(server)
