from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtest.lab.result import Result
from loadtest.reporting.advice import Advice, advise
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.lab.measured import USE, measured, measurement, record


def given(strategy: str = "async", *, use: dict[str, Any] | None = None, **figures: Any) -> Result:
    """Of a strategy of which nothing needs advice but what is changed."""
    its = measured([measurement([0.5] * 4, use=replace(USE, **(use or {})))], STRATEGIES[strategy])
    return replace(its, pooled=replace(its.pooled, **figures))


def rules(of: Result, concurrent: int = 4) -> list[tuple[str, str]]:
    return [(advice.rule, advice.parameter) for advice in advise(of, concurrent=concurrent)]


def test_a_well_used_server_needs_none() -> None:
    assert rules(given()) == []


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (given(use={"server_cpu_percent": 20.0}), ("low use", "num_threads")),
        (given(use={"gpu_percent": 80.0, "gpu_memory_percent": 97.0}), ("memory", "max_batch")),
        (given(use={"memory_percent": 95.0}), ("memory", "instance_group")),
        (given(queue_ms=400.0, mean_ms=500.0), ("queueing", "max_batch")),
        (given("baseline", queue_ms=400.0, mean_ms=500.0), ("queueing", "scheduling")),
        (given(slo_attainment=0.5), ("long answers", "default_steps")),
        (given(slo_attainment=0.5, decode_ms=900.0), ("long answers", "max_size")),
        (given(slo_attainment=0.5, encode_ms=900.0), ("long answers", "prompt_cache_entries")),
    ],
)
def test_each_rule_names_its_parameter(of: Result, expected: tuple[str, str]) -> None:
    assert rules(of) == [expected]


def test_low_throughput_is_a_batch_that_is_smaller_than_what_was_there() -> None:
    assert rules(given("batch"), concurrent=16) == [("low throughput", "scheduling")]
    waiting = given(use={"waiting": 12.0})
    assert rules(waiting, concurrent=16) == [("low throughput", "max_batch")]
    assert rules(given(), concurrent=16) == []  # nobody waited: the clients were slow


def test_failures_are_told_by_their_codes_the_most_frequent_first() -> None:
    records = [record(error="OUT_OF_MEMORY"), *[record(error="OVERLOADED")] * 2, *[record(0.5)] * 97]
    found = advise(measured([replace(measurement([]), records=records)], STRATEGIES["async"]), concurrent=4)
    assert [(advice.rule, advice.parameter) for advice in found] == [
        ("failures", "max_in_flight"),
        ("failures", "max_batch"),
    ]
    assert found[0].finding == "2 of 100 requests failed with OVERLOADED"


def test_advice_reads_as_a_sentence() -> None:
    assert str(Advice("low use", "the GPU was used to 3 %", "num_threads", "more load")) == (
        "the GPU was used to 3 %: num_threads: more load"
    )
