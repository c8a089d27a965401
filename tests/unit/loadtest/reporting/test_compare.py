from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.failures import BadInput
from loadtest.reporting.compare import compared
from loadtest.reporting.document import document, read_document
from loadtest.reporting.report import Report
from tests.unit.loadtest.lab.measured import CONFIG, measured, measurement, report


def of(latencies: list[float], **config: Any) -> dict[str, Any]:
    found: Report = report(measured([measurement([latency], repeat=n) for n, latency in enumerate(latencies, 1)]))
    return document(replace(found, config={**CONFIG, **config}))


def test_a_clear_change_is_real_and_has_a_direction() -> None:
    text = "\n".join(compared(of([0.8, 0.81, 0.79, 0.8]), of([0.4, 0.41, 0.39, 0.4])))
    assert "throughput /s" in text
    assert text.count("real: better") == 6  # more throughput and goodput, less of all times
    back = "\n".join(compared(of([0.4, 0.41, 0.39, 0.4]), of([0.8, 0.81, 0.79, 0.8])))
    assert back.count("real: worse") == 6


def test_noise_is_called_chance() -> None:
    text = "\n".join(compared(of([0.8, 0.9, 0.7]), of([0.75, 0.95, 0.72])))
    assert text.count("may be chance") == 6


def test_without_repeats_nothing_can_be_told() -> None:
    assert "cannot be told without repeats" in "\n".join(compared(of([0.8]), of([0.4])))


def test_different_tests_are_named() -> None:
    text = "\n".join(compared(of([0.8], mix="uniform"), of([0.8], mix="bursty", partial="interrupted")))
    assert "Not the same test: mix is uniform and bursty" in text
    assert "The second is partial: interrupted" in text
    assert "Not the same" not in "\n".join(compared(of([0.8]), of([0.8])))


def test_a_file_of_version_1_is_compared_with_todays() -> None:
    before = read_document(Path(__file__).with_name("results_version1.json"))
    assert [entry["strategy"] for entry in before["performance_results"]] == ["baseline", "async"]
    assert len(before["detailed_results"]) == 6
    after = of([0.5, 0.51, 0.52])
    text = "\n".join(compared(before, after))
    assert "\nbaseline:\n" in text
    assert text.count("real: better") == 5  # all but goodput: none of the file's met the SLO
    assert "\nasync:\n" not in text, "only the file has it"
    assert "Not the same test: requests is 1 and 4" in text
    assert text.count("Not the same") == 1


def test_nothing_in_common() -> None:
    other = of([0.8])
    other["performance_results"][0]["strategy"] = "async"
    with pytest.raises(BadInput, match="one has baseline, the other async"):
        list(compared(of([0.8]), other))
