"""`fluxclient status` against a real gRPC server, and real metrics over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from fluxclient.cli.app import main
from fluxclient.cli.status import Interval
from fluxclient.statistics import Statistics
from tests.unit.client.fakes.command import BOUND_S, start
from tests.unit.client.fakes.grpc_server import WireServer

METRICS = """\
# TYPE flux_requests_total counter
flux_requests_total{model="flux",instance="0",outcome="ok"} 1200
flux_requests_total{model="flux",instance="0",outcome="cancelled"} 3
# TYPE flux_images_total counter
flux_images_total{model="flux",instance="0"} %(images)s
# TYPE flux_dropped_images_total counter
flux_dropped_images_total{model="flux",instance="0",cause="cancelled"} 4
# TYPE flux_jobs_waiting gauge
flux_jobs_waiting{model="flux",instance="0"} 5
# TYPE flux_jobs_running gauge
flux_jobs_running{model="flux",instance="0"} 16
# TYPE flux_steps_total counter
flux_steps_total{model="flux",instance="0"} %(steps)s
# TYPE flux_step_batch_size histogram
flux_step_batch_size_count{model="flux",instance="0"} %(batches)s
flux_step_batch_size_sum{model="flux",instance="0"} %(steps)s
flux_step_batch_size_bucket{model="flux",instance="0",le="+Inf"} %(batches)s
# TYPE flux_prompt_cache_hits_total counter
flux_prompt_cache_hits_total{model="flux",instance="0"} 30
# TYPE flux_prompt_cache_misses_total counter
flux_prompt_cache_misses_total{model="flux",instance="0"} 10
"""


class Triton(WireServer):
    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = service_pb2.ModelConfigResponse()
        response.config.name = request.name
        response.config.instance_group.add(count=2)
        return response


class Metrics:
    """A server of metrics that have grown at each look: by 5 images, and by 40 steps in 10 batches."""

    def __init__(self) -> None:
        self.looks = 0
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                metrics.looks += 1
                n = metrics.looks
                values = {"images": 1200 + 5 * n, "steps": 4000 + 40 * n, "batches": 2000 + 10 * n}
                body = (METRICS % values).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[Triton]:
    server = Triton()
    monkeypatch.setenv("FLUXCLIENT_URL", server.url)
    yield server
    server.stop()


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    metrics = Metrics()
    monkeypatch.setenv("FLUXCLIENT_METRICS_URL", metrics.url)
    yield metrics
    metrics.stop()


@pytest.fixture
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("FLUXCLIENT_METRICS_URL", f"http://127.0.0.1:{probe.getsockname()[1]}/metrics")


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {line[:12].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}


def test_what_people_see(triton: Triton, metrics: Metrics, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--interval", "0.1"]) == 0
    lines = told(capsys)
    throughput = lines.pop("throughput")
    assert lines == {
        "server": f"triton 2.51.0 at {triton.url}: ready",
        "model": "flux: ready",
        "instances": "2",
        "queue": "5 waiting, 16 running",
        "pictures": "1,210 so far; given up: cancelled 4",
        "requests": "cancelled 3, ok 1,200",
        "cache hits": "75% of prompts so far",
        "mean batch": "4.0 pictures a step, over 0.1 s",
    }
    assert "pictures/s" in throughput and "steps/s" in throughput


def test_json(triton: Triton, metrics: Metrics, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--interval", "0.2", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    values = json.loads(line)
    assert values["ready"] and values["model_ready"] and values["prompt_cache_hit_rate"] == 0.75
    assert values["statistics"]["images"] == 1210
    assert values["statistics"]["requests"] == {"ok": 1200, "cancelled": 3}
    interval = values["interval"]
    assert interval["mean_batch"] == pytest.approx(4.0)
    assert interval["pictures_per_s"] == pytest.approx(5 / interval["seconds"])
    assert interval["seconds"] >= 0.2


@pytest.mark.parametrize(
    ("ready", "model_ready", "server_says", "model_says"),
    [(False, False, "live, but not ready", "not ready"), (True, False, "ready", "not ready")],
)
def test_not_ready(
    triton: Triton,
    metrics: Metrics,
    capsys: pytest.CaptureFixture[str],
    ready: bool,
    model_ready: bool,
    server_says: str,
    model_says: str,
) -> None:
    triton.server_ready, triton.model_ready = ready, model_ready
    assert main(["status", "--interval", "0.1"]) == 3
    lines = told(capsys)
    assert lines["server"].endswith(f": {server_says}")
    assert lines["model"] == f"flux: {model_says}"


def test_nobody_there(no_metrics: None, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["status", "--interval", "0.1", "--url", url]) == 3
    lines = told(capsys)
    assert lines["server"] == f"at {url}: not reached"
    assert "CONNECTION_FAILED" in lines["because"]


def test_no_metrics(triton: Triton, no_metrics: None, capsys: pytest.CaptureFixture[str]) -> None:
    """They are another port, which may be closed to clients: that does not make the server unusable."""
    assert main(["status", "--interval", "0.1"]) == 0
    lines = told(capsys)
    assert lines["model"] == "flux: ready"
    assert "CONNECTION_FAILED" in lines["statistics"] and "queue" not in lines


def test_watching_ends_with_ctrl_c(triton: Triton, metrics: Metrics) -> None:
    process = start("status", "--watch", "--interval", "0.1", "--json")
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=BOUND_S)

    assert (process.returncode, err) == (130, "")
    images = [look["statistics"]["images"] for look in looks]
    assert images == sorted(set(images))


def statistics(images: int, steps: int, mean_batch: float) -> Statistics:
    return Statistics("triton", "flux", 1, {}, images, {}, 0, 0, steps, mean_batch, 0, 0)


def test_interval() -> None:
    between = Interval.between(statistics(10, 100, 2.0), statistics(30, 300, 3.0), 2.0)
    assert between == Interval(2.0, 10.0, 100.0, 4.0)  # 200 steps of pictures in 100 - 50 batches


def test_idle_interval() -> None:
    assert Interval.between(statistics(0, 0, 0.0), statistics(0, 0, 0.0), 1.0) == Interval(1.0, 0.0, 0.0, None)


def test_interval_in_which_the_model_was_loaded_again() -> None:
    assert Interval.between(statistics(10, 100, 2.0), statistics(1, 8, 1.0), 1.0) is None
