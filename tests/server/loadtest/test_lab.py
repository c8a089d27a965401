"""`python -m loadtest` against a real Triton: what it measures, and that the server is as it was whatever happens."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from loadtest.reporting.formats import RESULTS, SWEEP, fault
from tests.server.servers import started, until
from tools.triton.api import ApiError
from tools.triton.installation import PROJECT
from tools.triton.server import TritonServer

pytestmark = pytest.mark.slow

LONGEST_S = 240
ENDLESS = "100000"


@pytest.fixture(scope="module")
def server() -> Iterator[TritonServer]:
    """flux-tiny as it ships. Tests leave it as it was: that is what they are about."""
    with started() as server:
        yield server


def command(server: TritonServer, *options: str, word: str = "run") -> list[str]:
    urls = server.urls
    where = ["--url", urls.http, "--grpc", urls.grpc.removeprefix("grpc://"), "--metrics-url", urls.metrics]
    return [sys.executable, "-m", "loadtest", word, *where, *options]


def lab(server: TritonServer, *options: str, word: str = "run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(server, *options, word=word), cwd=PROJECT, capture_output=True, text=True, timeout=LONGEST_S
    )


@contextlib.contextmanager
def in_the_middle(server: TritonServer, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A lab that has set the baseline and measures it without end; some requests have been answered."""
    ours = ["--requests", ENDLESS, "--save", "--output", str(folder), "--slo-ms", "5000", *options]
    with subprocess.Popen(command(server, *ours), cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
        try:
            records = folder / "records" / "baseline-1.jsonl"
            until(lambda: records.exists() and len(records.read_text().splitlines()) >= 3, "answers", LONGEST_S)
            assert scheduling(server) == "serial"
            yield process
        finally:
            process.kill()


def scheduling(server: TritonServer) -> str:
    mode: str = server.api.configuration("flux")["parameters"]["scheduling"]["string_value"]
    return mode


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    assert fault(found, RESULTS) == ""
    return found


def test_strategies_are_set_measured_and_taken_back(server: TritonServer, tmp_path: Path) -> None:
    before = server.api.configuration("flux")
    options = ["--strategies", "baseline", "model_pool,async", "--requests", "6", "--repeats", "1", "--plot", "--save"]
    ran = lab(server, *options, "--output", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert server.api.configuration("flux") == before
    until(lambda: len(server.stubs()) == 2, "flux and flux_unary, one process each")

    found = results(tmp_path)
    assert found["test_config"]["partial"] is None
    names = ["baseline", "model_pool", "async"]
    assert found["test_config"]["strategies"] == [of["strategy"] for of in found["performance_results"]] == names
    for its in found["performance_results"]:
        name = its["strategy"]
        assert its["figures"]["success_rate"] == 1.0, its["errors"]
        assert 0 < its["figures"]["first_progress_p50_ms"] < its["figures"]["p50_ms"]
        assert its["efficiency"]["score"] > 0
        engine = its["use"]["engine"]
        requests = [request for request in found["detailed_results"] if request["strategy"] == name]
        assert engine["images"] == len(requests) == 6
        assert engine["steps"] == sum(request["steps"] for request in requests)
        assert its["use"]["server_cpu_percent"] > 5
        assert any(reading["strategy"] == name and reading["running"] for reading in found["system_metrics"])
        assert f"| {name}" in ran.stdout
    mean_batch = {of["strategy"]: of["use"]["engine"]["mean_batch"] for of in found["performance_results"]}
    assert mean_batch["baseline"] == 1.0
    assert mean_batch["async"] > 1.0
    assert len(list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))) == 3
    report = (tmp_path / "report.html").read_text().replace(server.urls.http, "")
    assert not re.search("https?:", report), "it loads nothing"  # with the colon, which base64 has not
    for name in ("performance_comparison.png", "latency_distribution.png"):
        Image.open(tmp_path / name).load()


def test_an_interrupted_lab_restores_and_keeps_what_it_has(server: TritonServer, tmp_path: Path) -> None:
    before = server.api.configuration("flux")
    with in_the_middle(server, tmp_path) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 130
    assert "interrupted by SIGTERM" in told
    assert server.api.configuration("flux") == before
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    found = results(tmp_path)
    assert found["test_config"]["partial"] == "interrupted by SIGTERM"
    (its,) = found["performance_results"]
    assert [run["problem"] for run in its["runs"]] == ["interrupted"]
    assert len(found["detailed_results"]) >= 3


def test_a_killed_lab_leaves_the_server_as_it_was_and_no_load_on_it(server: TritonServer, tmp_path: Path) -> None:
    before = server.api.configuration("flux")
    with in_the_middle(server, tmp_path) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(children) >= 2  # Locust and the guard

    def is_restored() -> bool:
        with contextlib.suppress(ApiError):  # a slow machine's server answers only once it has loaded the model
            return server.api.configuration("flux") == before
        return False

    until(is_restored, "the guard to restore", LONGEST_S)
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if child.is_running()]


def test_a_server_that_dies_leaves_partial_results(tmp_path: Path) -> None:
    with started() as server, in_the_middle(server, tmp_path) as process:
        server.kill()
        _, told = process.communicate(timeout=LONGEST_S)
        assert process.returncode == 4
    assert "baseline, round 1: the server is not ready any more" in told
    assert "could not be restored" in told
    found = results(tmp_path)
    assert "the server is not ready any more" in found["test_config"]["partial"]
    assert found["performance_results"][0]["figures"]["succeeded"] >= 3


def test_a_parameter_that_the_server_refuses_is_told_and_the_server_stays(server: TritonServer, tmp_path: Path) -> None:
    file = tmp_path / "strategies.json"
    file.write_text(json.dumps({"name": "typo", "parameters": {"max_bach": "4"}}))
    before = server.api.configuration("flux")
    ran = lab(server, "--strategy-file", str(file), "--strategies", "custom:typo")
    assert ran.returncode == 3
    assert "strategy typo: " in ran.stderr
    assert "did you mean 'max_batch'?" in ran.stderr
    assert server.api.configuration("flux") == before


def test_a_mix_that_the_server_cannot_draw_is_told(server: TritonServer) -> None:
    ran = lab(server, "--mix", "dataset-c", "--requests", "4", "--no-reconfigure")
    assert ran.returncode == 2
    assert "--mix dataset-c: the server refuses" in ran.stderr


def test_a_server_that_does_not_let_itself_be_set_up(tmp_path: Path) -> None:
    """Loading needs a key, and a variable goes before one strategy's parameter."""
    file = tmp_path / "strategies.json"
    file.write_text(json.dumps({"name": "four", "parameters": {"max_batch": "4"}}))
    with started(environment={"FLUX_SCHEDULING": "serial"}) as server:
        ran = lab(server)
        assert ran.returncode == 3
        assert "the server was started with FLUX_SCHEDULING, which goes before what the lab sets" in ran.stderr
        few = ["--strategies", "custom:four", "--strategy-file", str(file), "--requests", "2", "--repeats", "1"]
        ran = lab(server, *few, "--control-key", "wrong")
        assert ran.returncode == 3
        assert "no rights to load models" in ran.stderr
        assert "--control-key or TRITON_CONTROL_KEY gives the server's key" in ran.stderr
        ran = lab(server, *few, "--slo-ms", "5000", "--control-key", server.control_key)
        assert ran.returncode == 0, ran.stderr
        ran = lab(server, "--no-reconfigure", "--requests", "2", "--repeats", "1", "--slo-ms", "5000")
        assert ran.returncode == 0, ran.stderr
        assert "as_found" in ran.stdout


def test_a_sweep_finds_the_knee(server: TritonServer, tmp_path: Path) -> None:
    options = ["--strategies", "async", "--requests", "12", "--concurrent", "4", "--slo-scale", "4", "--repeats", "1"]
    ran = lab(server, *options, "--output", str(tmp_path), word="sweep")
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert fault(found, SWEEP) == ""
    swept = found["sweeps"]["async"]
    assert all(point["figures"]["success_rate"] == 1.0 for point in swept["points"])
    assert swept["knee_per_s"] > 0.2 * swept["capacity_per_s"]
    assert "| async" in ran.stdout
    assert scheduling(server) == "continuous"
