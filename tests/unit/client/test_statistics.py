"""Health, statistics, loading and unloading, over both protocols and in both clients."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluxclient import ConnectionFailed, Health, NotFound, ServerError, Statistics
from fluxclient.statistics import read_statistics
from fluxengine import metrics as engine_metrics
from tests.unit.client.fakes.behaviours import unused_port
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer

Server = WireServer | HttpServer

METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="flux",version="1"} 7
# HELP flux_requests_total Requests answered
# TYPE flux_requests_total counter
flux_requests_total{instance="flux_0_0",model="flux",outcome="ok"} 5
flux_requests_total{instance="flux_0_1",model="flux",outcome="ok"} 2
flux_requests_total{instance="flux_0_1",model="flux",outcome="cancelled"} 1
flux_requests_total{instance="other_0_0",model="other",outcome="ok"} 100
# TYPE flux_images_total counter
flux_images_total{instance="flux_0_0",model="flux"} 9
flux_images_total{instance="flux_0_1",model="flux"} 1
# TYPE flux_dropped_images_total counter
flux_dropped_images_total{cause="cancelled",instance="flux_0_1",model="flux"} 3
# TYPE flux_steps_total counter
flux_steps_total{instance="flux_0_0",model="flux"} 80
# TYPE flux_prompt_cache_hits_total counter
flux_prompt_cache_hits_total{instance="flux_0_0",model="flux"} 4
# TYPE flux_prompt_cache_misses_total counter
flux_prompt_cache_misses_total{instance="flux_0_0",model="flux"} 6
# TYPE flux_jobs_waiting gauge
flux_jobs_waiting{instance="flux_0_0",model="flux"} 2
flux_jobs_waiting{instance="flux_0_1",model="flux"} 1
# TYPE flux_jobs_running gauge
flux_jobs_running{instance="flux_0_0",model="flux"} 16
# TYPE flux_default gauge
flux_default{instance="flux_0_0",model="flux",option="guidance_scale"} 3.5
flux_default{instance="flux_0_1",model="flux",option="guidance_scale"} 3.5
# TYPE flux_limit gauge
flux_limit{instance="flux_0_0",model="flux",option="height"} 512
# TYPE flux_checkpoint_loaded_seconds gauge
flux_checkpoint_loaded_seconds{instance="flux_0_1",model="flux",name="new"} 1.7e9
flux_checkpoint_loaded_seconds{instance="flux_0_0",model="flux",name="old"} 1.6e9
# TYPE flux_step_batch_size histogram
flux_step_batch_size_count{instance="flux_0_0",model="flux"} 30
flux_step_batch_size_sum{instance="flux_0_0",model="flux"} 70
flux_step_batch_size_bucket{instance="flux_0_0",model="flux",le="1"} 3
flux_step_batch_size_bucket{instance="flux_0_0",model="flux",le="+Inf"} 30
flux_step_batch_size_count{instance="flux_0_1",model="flux"} 2
flux_step_batch_size_sum{instance="flux_0_1",model="flux"} 10
flux_step_batch_size_bucket{instance="flux_0_1",model="flux",le="+Inf"} 2
"""


@pytest.fixture
def metrics() -> Iterator[HttpServer]:
    server = HttpServer()
    server.metrics = METRICS
    yield server
    server.stop()


def test_statistics_are_sums_over_the_instances(kind: Callable[..., Face], either: Server, metrics: HttpServer) -> None:
    either.config["instance_group"] = [{"count": 2, "gpus": [0, 1], "kind": "KIND_GPU"}]

    assert kind(either.url, metrics_url=metrics.metrics_url).statistics() == Statistics(
        server="triton 2.51.0",
        model="flux",
        instances=4,
        requests={"ok": 7, "cancelled": 1},
        images=10,
        dropped_images={"cancelled": 3},
        waiting=3,
        running=16,
        steps=80,
        mean_batch=2.5,
        prompt_cache_hits=4,
        prompt_cache_misses=6,
        checkpoint="new",
        defaults={"guidance_scale": 3.5},
        limits={"height": 512},
    )


def test_nothing_drawn_yet() -> None:
    statistics = read_statistics("", "triton 2.51.0", "flux", {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]})

    assert (statistics.instances, statistics.requests, statistics.images, statistics.mean_batch) == (1, {}, 0, 0.0)


def test_names_are_those_of_the_engine() -> None:
    names = {metric.name for metric in engine_metrics.METRICS}
    read = {line.split("{")[0] for line in METRICS.splitlines() if line.startswith("flux_")}

    assert {name.removesuffix("_count").removesuffix("_sum").removesuffix("_bucket") for name in read} <= names
    labels = {metric.name: metric.label for metric in engine_metrics.METRICS if metric.label}
    assert labels == {
        "flux_requests_total": "outcome",
        "flux_dropped_images_total": "cause",
        "flux_default": "option",
        "flux_limit": "option",
        "flux_checkpoint_loaded_seconds": "name",
    }


def test_metrics_that_are_somewhere_else(kind: Callable[..., Face], either: Server, metrics: HttpServer) -> None:
    url = metrics.metrics_url
    metrics.stop()
    with pytest.raises(ConnectionFailed, match="metrics_url says where") as caught:
        kind(either.url, metrics_url=url).statistics()
    assert caught.value.field == "metrics"
    assert url in caught.value.text


def test_metrics_that_do_not_even_speak_http(kind: Callable[..., Face], either: Server) -> None:
    """As at the port of gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x00\x00\x18\x04\x00\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ConnectionFailed, match="metrics_url says where"):
            kind(either.url, metrics_url=f"http://127.0.0.1:{listener.getsockname()[1]}/metrics").statistics()


def test_metrics_that_are_no_metrics(kind: Callable[..., Face], either: Server, metrics: HttpServer) -> None:
    metrics.metrics = "<html>{</html>"
    with pytest.raises(ServerError) as caught:
        kind(either.url, metrics_url=metrics.metrics_url).statistics()
    assert caught.value.field == "metrics"


def test_statistics_of_a_model_that_is_not_loaded(client: Face, either: Server) -> None:
    either.refusal = "Request for unknown model: 'flux' is not found"
    with pytest.raises(NotFound) as caught:
        client.statistics()
    assert caught.value.field == "model"


@pytest.mark.parametrize(("ready", "model"), [(True, True), (True, False), (False, False)])
def test_health(client: Face, either: Server, ready: bool, model: bool) -> None:
    either.server_ready, either.model_ready = ready, model

    assert client.health() == Health(True, ready, model)
    assert bool(client.health()) is (ready and model)


def test_health_of_nobody(kind: Callable[[str], Face], protocol: str) -> None:
    health = kind(f"{protocol}://127.0.0.1:{unused_port()}").health()

    assert (health.live, health.ready, health.model_ready) == (False, False, False)
    assert "CONNECTION_FAILED" in health.detail


def test_load_and_unload(client: Face, either: Server) -> None:
    client.load()
    client.unload()

    assert either.loads == [("flux", None)]
    assert either.unloads == ["flux"]


def test_load_and_unload_bring_the_control_key_of_the_environment_or_of_a_server_here(
    client: Face, either: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_CONTROL_KEY", raising=False)
    monkeypatch.setenv("TRITON_CONTROL_KEY_FOLDER", str(tmp_path))
    client.load()
    port = either.url.rpartition(":")[2]
    (tmp_path / f"control-key-{port}").write_text("from the file\n")
    client.load()
    client.unload()
    monkeypatch.setenv("TRITON_CONTROL_KEY", "from the environment")
    client.unload()
    assert either.control_keys == [None, "from the file", "from the file", "from the environment"]


def test_the_control_key_of_a_client(
    kind: Callable[..., Face], either: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CONTROL_KEY", "from the environment")
    client = kind(either.url, control_key="its own")
    client.load()
    client.unload()
    assert either.control_keys == ["its own", "its own"]


def test_load_with_parameters_keeps_the_others(client: Face, either: Server) -> None:
    either.config["parameters"] = {"max_batch": {"string_value": "16"}, "dtype": {"string_value": "auto"}}
    client.load({"max_batch": "4", "scheduling": "serial"})

    ((model, text),) = either.loads
    config = json.loads(text or "")
    assert (model, config["name"], config["instance_group"][0]["count"]) == ("flux", "flux", 1)
    values = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert values == {"max_batch": "4", "dtype": "auto", "scheduling": "serial"}


def test_why_it_does_not_load(client: Face, either: Server) -> None:
    either.refusal = "failed to load 'flux', max_batch is 'many': must be an integer"
    for ask in (client.load, client.unload):
        with pytest.raises(ServerError, match="max_batch is 'many'") as caught:
            ask()
        assert caught.value.code == "INTERNAL"
