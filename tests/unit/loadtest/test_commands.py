"""The whole lab: what it refuses, and with Locust against servers of which theory knows the figures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from loadtest import __main__ as lab
from loadtest.lab.figures import percentile
from loadtest.traffic.record import now_s
from tests.unit.loadtest.lab.measured import of
from tests.unit.loadtest.server.stub_server import StubServer
from tools.triton.ports import choose_port

EXACT = 0.05
"""How far the lab may be off."""


def measure(stub: StubServer, folder: Path, *options: str, exit_code: int = 0) -> dict[str, Any]:
    """One run, and its results.json."""
    common = ["--url", stub.url, "--no-reconfigure", "--protocol", "http-generate", "--repeats", "1", "--save"]
    assert lab.main([*common, "--output", str(folder), *options]) == exit_code
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_closed_loop_figures_are_those_of_theory(tmp_path: Path) -> None:
    """Four servers of 600 ms and eight users: 4 ÷ 0.6 s; everybody waits for one turn, but the first four."""
    with StubServer(0.6, servers=4) as stub:
        found = measure(stub, tmp_path, "--requests", "24", "--concurrent", "8", "--slo-ms", "900", "--warm-up", "1")
    its = of(found, "as_found")["figures"]
    assert its["throughput_per_s"] == pytest.approx(4 / 0.6, rel=EXACT)
    assert its["mean_ms"] == pytest.approx((4 * 600 + 20 * 1200) / 24, rel=EXACT)
    assert its["p50_ms"] == pytest.approx(1200, rel=EXACT)
    assert its["p95_ms"] == pytest.approx(1200, rel=EXACT)
    assert (its["requests"], its["success_rate"]) == (24, 1.0)
    assert its["slo_attainment"] == pytest.approx(4 / 24, abs=1e-6)
    config = found["test_config"]
    assert config["partial"] is None
    assert (config["url"], config["strategies"]) == (stub.url, ["as_found"])
    assert (config["requests_per_strategy"], config["concurrent"]) == (24, 8)
    watched = [reading["at"] for reading in found["system_metrics"]]
    assert len(watched) >= 4
    assert watched == sorted(watched)
    assert all(reading["cpu_percent"] is not None for reading in found["system_metrics"])


def test_open_loop_latency_counts_from_the_intended_start_also_while_the_server_stalls(tmp_path: Path) -> None:
    """M/D/6 at three quarters of its capacity that stalls for 1.5 s: those who come meanwhile wait, and that counts."""
    answered: list[dict[str, Any]] = []

    def stall_once(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        answered.append(body)
        if len(answered) == 30:
            stub.stall(1.5)
        return answer

    offset_s = now_s() - time.monotonic()
    with StubServer(0.4, servers=6, answer=stall_once) as stub:
        found = measure(stub, tmp_path, "--requests", "60", "--rate", "11", "--warm-up", "1", "--slo-ms", "800")
    its = of(found, "as_found")["figures"]
    requests = found["detailed_results"]
    done = {served.body["seed"]: served.done_s + offset_s for served in stub.served}
    expected = [(done[request["seed"]] - request["intended"]) * 1e3 for request in requests]
    assert max(expected) > 1200, "some must have come while it stalled"
    found_late_s = [request["ended"] - done[request["seed"]] for request in requests]
    assert max(found_late_s) < 0.5, "an answer was noticed long after it came"
    assert its["mean_ms"] == pytest.approx(sum(expected) / len(expected), rel=EXACT)
    for percent in (50, 95, 99):
        assert its[f"p{percent}_ms"] == pytest.approx(percentile(expected, percent), rel=EXACT)
    assert max(request["sent"] - request["intended"] for request in requests) < 0.2, "the stall held the arrivals up"
    seconds = max(done[request["seed"]] for request in requests) - min(request["intended"] for request in requests)
    assert its["throughput_per_s"] == pytest.approx(60 / seconds, rel=EXACT)


def test_failures_are_counted_told_and_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fourth answer is an error, and one in four misses a bound of 90 %."""
    count = iter(range(10_000))

    def overloaded(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        return answer if next(count) % 4 else {"error": "FLUX_OVERLOADED: queue: is full [request x]"}

    bounds = ("--min-success", "0.9", "--slo-ms", "1000")
    with StubServer(0.02, servers=4, answer=overloaded) as stub:
        found = measure(stub, tmp_path, "--requests", "40", "--concurrent", "2", *bounds, exit_code=1)
    its = of(found, "as_found")
    assert its["figures"]["success_rate"] == pytest.approx(0.75)
    assert [(error["code"], error["count"]) for error in its["errors"]] == [("OVERLOADED", 10)]
    assert its["advice"][0]["parameter"] == "max_in_flight"
    told = capsys.readouterr()
    assert "as_found: 75.0% of the requests succeeded, at least 90.0% are asked for (--min-success)" in told.err
    assert "10 of 40 requests failed with OVERLOADED: max_in_flight" in told.out


def test_a_size_that_the_server_refuses_is_told_before_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"error": "FLUX_INVALID_ARGUMENT: width: is 128; at most 64 [request x]"}
    with StubServer(0.01, answer=lambda body, answer: refusal) as stub:
        url = ["--url", stub.url, "--no-reconfigure", "--protocol", "http-generate", "--output", str(tmp_path)]
        assert lab.main(url) == 2
    assert "--mix uniform: the server refuses http-generate 128x128" in capsys.readouterr().err


def nobody() -> str:
    return f"http://127.0.0.1:{choose_port('127.0.0.1', 'http', 0, set())}"


@pytest.mark.parametrize("extra", [[], ["--no-reconfigure"]])
def test_nobody_at_the_url(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    url = nobody()
    assert lab.main(["--url", url, *extra]) == 3
    assert f"no Triton is ready at {url}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--mix", "nope"], "mix"),
        (["--strategies", "nope"], "--strategies: 'nope' is unknown; there are baseline"),
        (["--no-reconfigure", "--strategies", "all"], "has one strategy; name one, or none"),
        (["--url", "ftp://x"], "--url is 'ftp://x'"),
        (["--model", "dev", "--protocol", "http-infer"], "--model: is 'dev'; http-infer always reaches flux"),
        (["--start-server", "--protocol", "openai"], "--protocol openai: needs a gateway"),
        (["--start-server", "--grpc", "b:1"], "--grpc: is 'b:1' beside --start-server"),
        (["--save", "--output", "/proc/nothing"], "--output /proc/nothing: cannot be written to"),
        (["compare", "/none.json", "/none.json"], "/none.json: No such file"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_mix_with_an_impossible_size_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = tmp_path / "mix.json"
    entry = {"name": "odd", "weight": 1, "width": 100, "height": 128, "num_inference_steps": 4}
    mix.write_text(json.dumps({"entries": [entry]}))
    assert lab.main(["--mix", str(mix)]) == 2
    assert "entries[0].width" in capsys.readouterr().err
