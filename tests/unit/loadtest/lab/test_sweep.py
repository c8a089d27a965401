from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from loadtest import __main__ as lab
from loadtest.lab import knee
from loadtest.lab.knee import Point, Swept, with_lead
from loadtest.lab.slo import Slo
from loadtest.lab.sweep import document, text
from loadtest.reporting.formats import SCHEMAS, SWEEP, VERSIONS, fault
from loadtest.server.strategies import STRATEGIES
from loadtest.traffic.arrivals import arrivals
from tests.unit.loadtest.measured import CONFIG, sample
from tests.unit.loadtest.stub_server import StubServer
from tests.unit.loadtest.traffic.queueing import latencies

SERVICE_S = 0.05
LIMIT_S = 0.25
REQUESTS = 40
SEED = 62
"""Of arrivals with which nothing hangs on a few milliseconds: each rate holds easily, or breaks by far."""


def carried_by_theory(rate: float, seed: int, servers: int) -> bool:
    times = list(itertools.islice(arrivals("poisson", rate, seed), with_lead(REQUESTS)))
    counted = latencies(times, SERVICE_S, servers)[-REQUESTS:]
    return statistics.fmean(latency <= LIMIT_S for latency in counted) >= 0.95


def test_the_knee_of_each_strategy_is_that_of_theory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server and two of 50 ms: 20 and 40 requests a second are the most that they can do."""
    monkeypatch.setattr(knee, "CLIMB", (0.6, 1.0))
    monkeypatch.setattr(knee, "NARROWINGS", 1)
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
        for share, seed in ((0.6, SEED + 1), (1.0, SEED + 2), (0.8, SEED + 3)):  # the closed loop had the first
            assert points[share]["figures"]["requests"] == REQUESTS
            assert points[share]["carried"] == carried_by_theory(points[share]["rate"], seed, servers), share
        assert its["knee_per_s"] == pytest.approx(0.8 * capacity)
        assert its["breaks_at_per_s"] == pytest.approx(capacity)


def point(rate: float, latency_s: float) -> Point:
    """A thousand requests a second apart that all take as long, with an SLO of a second."""
    run = [sample(latency_s, at=float(n)) for n in range(with_lead(1000))]
    return Point.of(rate, [run], 0.95, Slo(absolute_ms=1000))


def of(*points: Point, name: str = "async") -> Swept:
    return Swept(STRATEGIES[name], 10.0, points)


def told(swept: Swept) -> str:
    found = document([swept], dict(CONFIG), 0.95)
    assert fault(found, SWEEP) == ""
    return "\n".join(text([swept], 0.95))


def test_a_knee_is_told_with_the_rate_that_breaks() -> None:
    said = told(of(point(4, 0.5), point(6, 0.5), point(8, 2.0)))
    assert "| async | 6.00 | 8.00 | 100.0% (99.6% to 100.0%) | 500 | 500 | 500 | 10.00 |" in " ".join(said.split())
    assert "async: " not in said


def test_a_rate_that_holds_above_one_that_does_not_is_no_knee() -> None:
    swept = of(point(4, 0.5), point(6, 2.0), point(8, 0.5))
    assert swept.knee is not None and swept.breaks is not None
    assert (swept.knee.rate, swept.breaks.rate) == (4, 6)


def test_it_is_told_when_even_the_lowest_rate_breaks() -> None:
    swept = of(point(0.5, 2.0), point(1, 2.0), point(2, 2.0), point(4, 2.0))
    assert swept.knee is None
    assert "async: no rate was carried, down to 0.50/s: even then requests miss their SLO. --slo-scale" in told(swept)


def test_it_is_told_when_no_rate_breaks() -> None:
    swept = of(point(4, 0.5), point(45, 0.5))
    assert swept.breaks is None
    said = told(swept)
    assert "| ≥ 45.00 |" in " ".join(said.split())
    assert "async: no rate broke the SLO, up to 45.00/s. More --concurrent users begin the search higher." in said


@pytest.mark.parametrize(("name", "version"), VERSIONS.items())
def test_the_schemas_are_schemas_and_name_their_versions(name: str, version: int) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["properties"]["test_config"]["properties"]["schema_version"] == {"const": version}
    assert SCHEMAS[name]["title"].endswith(f"version {version}")


def test_a_document_that_is_none_is_told_by_what_is_wrong() -> None:
    found = document([of(point(4, 0.5))], dict(CONFIG), 0.95)
    found["sweeps"]["async"]["points"][0]["figures"]["p95_ms"] = "soon"
    assert fault(found, SWEEP) == "$.sweeps.async.points[0].figures.p95_ms: 'soon' is not of type 'number', 'null'"
    del found["sweeps"]["async"]["points"]
    assert "'points' is a required property" in fault(found, SWEEP)
