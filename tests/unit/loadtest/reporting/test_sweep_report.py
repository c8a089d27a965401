from __future__ import annotations

from loadtest.lab.knee import SweepPoint, Swept, with_lead
from loadtest.lab.slo import Slo
from loadtest.reporting.formats import SWEEP, fault
from loadtest.reporting.sweep_report import document, text
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.lab.measured import CONFIG, record


def point(rate: float, latency_s: float) -> SweepPoint:
    """A thousand requests a second apart that all take as long, with an SLO of a second."""
    run = [record(latency_s, at=float(n)) for n in range(with_lead(1000))]
    return SweepPoint.of(rate, [run], 0.95, Slo(absolute_ms=1000))


def of(*points: SweepPoint, name: str = "async") -> Swept:
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


def test_a_document_that_is_none_is_told_by_what_is_wrong() -> None:
    found = document([of(point(4, 0.5))], dict(CONFIG), 0.95)
    found["sweeps"]["async"]["points"][0]["figures"]["p95_ms"] = "soon"
    assert fault(found, SWEEP) == "$.sweeps.async.points[0].figures.p95_ms: 'soon' is not of type 'number', 'null'"
    del found["sweeps"]["async"]["points"]
    assert "'points' is a required property" in fault(found, SWEEP)
