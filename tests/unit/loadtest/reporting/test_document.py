from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.failures import BadInput
from loadtest.reporting.document import document, read_document
from loadtest.reporting.files import encode
from loadtest.reporting.formats import RESULTS, fault
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.lab.measured import measured, measurement, of, record, report, two_strategies


def test_the_document_keeps_to_its_schema_and_has_its_four_keys(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(encode(document(two_strategies())))
    found = read_document(tmp_path / "results.json")
    assert set(found) == {"test_config", "performance_results", "system_metrics", "detailed_results"}
    assert found["test_config"]["strategies"] == list(STRATEGIES)
    assert [entry["strategy"] for entry in found["performance_results"]] == ["baseline", "async"]
    best = of(found, "async")
    assert best["best"] is True
    assert best["change_against_baseline"]["throughput_per_s"]["percent"] == pytest.approx(100)
    assert of(found, "baseline")["change_against_baseline"] == {}
    assert best["use"]["utilisation_of"] == "server's CPU"
    assert [each["repeat"] for each in best["runs"]] == [1, 2, 3]
    rounds = [(strategy, repeat) for strategy in ("baseline", "async") for repeat in (1, 2, 3)]
    assert [(each["strategy"], each["repeat"]) for each in found["system_metrics"]] == rounds
    assert found["system_metrics"][0]["at"] == 1.5
    requests = [(each["strategy"], each["repeat"]) for each in found["detailed_results"]]
    assert requests == [each for each in rounds for _ in range(4)]
    assert found["detailed_results"][0]["class"] == "picture"


def test_a_document_of_failures_and_of_a_partial_run_keeps_to_it_as_well() -> None:
    broken = replace(measurement([]), records=[record(error="INTERNAL")], problem="the server is not ready any more")
    text = encode(document(report(measured([broken]), partial="the server died")))
    found = json.loads(text)
    assert fault(found, RESULTS) == ""
    assert found["test_config"]["partial"] == "the server died"
    assert of(found, "baseline")["runs"][0]["problem"] == "the server is not ready any more"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "schema_version is None; must be 1 or 2"),
        ('{"test_config": {"schema_version": 3}}', "schema_version is 3; must be 1 or 2"),
        ('{"test_config": {"schema_version": 2}}', "is a required property"),
        ('{"test_config": {"schema_version": 1}}', "is no whole document of version 1: KeyError: 'strategies'"),
        ('{"test_config": {"schema_version": 1, "strategies": 5}}', "is no whole document of version 1: TypeError"),
    ],
)
def test_another_file_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(BadInput) as raised:
        read_document(file)
    assert problem in str(raised.value)
