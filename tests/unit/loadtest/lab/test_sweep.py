from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

import pytest
from PIL import Image

from loadtest import __main__ as lab
from loadtest.lab import knee
from loadtest.lab.knee import with_lead
from loadtest.reporting.formats import SWEEP, fault
from loadtest.traffic.arrivals import arrivals
from tests.unit.loadtest.server.stub_server import StubServer
from tests.unit.loadtest.traffic.queueing import latencies

SERVICE_S = 0.05
LIMIT_S = 0.25
REQUESTS = 40
SEED = 1590
"""Of arrivals with which nothing hangs on a few milliseconds: each rate holds easily, or breaks by far."""


def carried_by_theory(rate: float, seed: int, servers: int) -> bool:
    times = list(itertools.islice(arrivals("poisson", rate, seed), with_lead(REQUESTS)))
    counted = latencies(times, SERVICE_S, servers)[-REQUESTS:]
    return statistics.fmean(latency <= LIMIT_S for latency in counted) >= 0.95


@pytest.mark.slow
def test_the_knee_of_each_strategy_is_that_of_theory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server and two of 50 ms: 20 and 40 requests a second are the most that they can do."""
    monkeypatch.setattr(knee, "CLIMB", (0.7, 1.0))
    monkeypatch.setattr(knee, "NARROWINGS", 0)  # test_knee.py has them; a rate here is a Locust process
    with StubServer(SERVICE_S) as stub:
        before = stub.configuration
        common = ["--url", stub.url, "--protocol", "http-generate", "--output", str(tmp_path), "--concurrent", "4"]
        options = ["--strategies", "baseline", "model_pool", "--slo-ms", str(1000 * LIMIT_S), "--repeats", "1"]
        load = ["--requests", str(REQUESTS), "--seed", str(SEED)]
        assert lab.main(["sweep", *common, *options, *load]) == 0
        assert stub.configuration == before
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert fault(found, SWEEP) == ""
    assert found["test_config"]["partial"] is None
    Image.open(tmp_path / "sweep.png").load()
    for name, servers in (("baseline", 1), ("model_pool", 2)):
        its = found["sweeps"][name]
        capacity = its["capacity_per_s"]
        assert capacity == pytest.approx(servers / SERVICE_S, rel=0.12)
        points = {round(point["rate"] / capacity, 3): point for point in its["points"]}
        for share, seed in ((0.7, SEED + 1), (1.0, SEED + 2)):  # the closed loop had the first
            assert points[share]["figures"]["requests"] == REQUESTS
            assert points[share]["carried"] == carried_by_theory(points[share]["rate"], seed, servers), share
        assert its["knee_per_s"] == pytest.approx(0.7 * capacity)
        assert its["breaks_at_per_s"] == pytest.approx(capacity)
