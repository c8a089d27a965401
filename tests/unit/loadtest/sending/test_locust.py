"""Locust itself against a stub whose service time is known: its figures are what theory says."""

from __future__ import annotations

import itertools
import json
import re
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.traffic.arrivals import arrivals
from loadtest.traffic.protocols import PROTOCOLS
from tests.unit.loadtest.sending.locust_process import Outcome, finish_locust, run_locust, start_locust
from tests.unit.loadtest.server.stub_server import JSON, StubServer
from tests.unit.loadtest.traffic.queueing import latencies

RATE = 30.0
SEED = 3


def latencies_of(outcome: Outcome) -> list[float]:
    return [record["ended"] - record["intended"] for record in by_intention(outcome)]


def by_intention(outcome: Outcome) -> list[dict[str, Any]]:
    return sorted(outcome.records, key=lambda record: record["intended"])


def open_loop(folder: Path, server: StubServer, requests: int, rate: float, *options: str) -> Outcome:
    """One user, who waits for nobody."""
    poisson = ("--arrivals", "poisson", "--rate", str(rate), "--mix-seed", str(SEED), "--requests", str(requests))
    outcome = run_locust(folder, server.url, *poisson, *options, users=1)
    assert (outcome.code, len(outcome.records), outcome.failures) == (0, requests, []), outcome.output
    return outcome


def planned_times(requests: int, rate: float) -> list[float]:
    return list(itertools.islice(arrivals("poisson", rate, SEED), requests))


def test_open_loop_latencies_are_those_of_theory(tmp_path: Path) -> None:
    with StubServer(service_s=0.4, servers=4) as server:
        outcome = open_loop(tmp_path, server, 60, 9.0)
    expected = latencies(planned_times(60, 9.0), 0.4, servers=4)
    assert max(expected) > 1.5 * min(expected), "some must have waited"
    found = latencies_of(outcome)
    assert statistics.mean(found) == pytest.approx(statistics.mean(expected), rel=0.05, abs=0.1)
    for percent in (50, 95):
        cut = int(len(found) * percent / 100)
        assert sorted(found)[cut] == pytest.approx(sorted(expected)[cut], rel=0.05, abs=0.1)


def test_a_slow_server_does_not_slow_the_arrivals(tmp_path: Path) -> None:
    """It can do half of what comes, so each waits longer than the one before; Locust's own figures say so too."""
    with StubServer(service_s=2 / RATE) as server:
        outcome = open_loop(tmp_path, server, 60, RATE, "--json-file", str(tmp_path / "locust"))
    times = planned_times(60, RATE)
    expected = latencies(times, 2 / RATE)
    assert statistics.mean(latencies_of(outcome)) == pytest.approx(statistics.mean(expected), rel=0.05, abs=0.1)
    assert max(latencies_of(outcome)) == pytest.approx(max(expected), rel=0.05)
    first, *_, last = [record["sent"] for record in by_intention(outcome)]
    assert last - first == pytest.approx(times[-1] - times[0], rel=0.05)

    entries = json.loads((tmp_path / "locust.json").read_text())
    total_ms = sum(entry["total_response_time"] for entry in entries)
    assert total_ms == pytest.approx(1000 * sum(latencies_of(outcome)), rel=0.01)
    assert {entry["method"] for entry in entries} == {"http-generate"}
    assert {entry["name"] for entry in entries} == {f"128x128 {steps} steps" for steps in range(4, 13)}


def test_a_trace_is_replayed_at_its_times(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.1, 0.4, 0.9]
    wanted = {"prompt": "a cat", "width": 64, "height": 96, "num_inference_steps": 3}
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(json.dumps({**wanted, "at": at}) for at in times))
    with StubServer(service_s=0.01, servers=4) as server:
        outcome = run_locust(tmp_path, server.url, "--arrivals", "trace", "--trace", str(trace))
    assert (outcome.code, len(outcome.records)) == (0, 5), outcome.output
    intended = [record["intended"] for record in by_intention(outcome)]
    assert [moment - intended[0] for moment in intended] == pytest.approx(times, abs=1e-6)
    assert all(record["sent"] - record["intended"] < 0.5 for record in outcome.records)
    assert {(record["width"], record["height"], record["steps"]) for record in outcome.records} == {(64, 96, 3)}


def test_a_closed_loop_has_as_many_in_flight_as_users(tmp_path: Path) -> None:
    with StubServer(service_s=0.1, servers=3) as server:
        outcome = run_locust(tmp_path, server.url, "--requests", "45", users=3)
    assert (outcome.code, len(outcome.records)) == (0, 45), outcome.output
    took_s = max(r["ended"] for r in outcome.records) - min(r["sent"] for r in outcome.records)
    assert 45 / took_s <= 3 / 0.1
    in_flight = sum(r["ended"] - r["sent"] for r in outcome.records) / took_s
    assert 2 < in_flight <= 3, "each user sends the next request as soon as one is answered"
    assert all(record["intended"] == record["sent"] for record in outcome.records)


def test_run_time_ends_with_what_is_in_flight(tmp_path: Path) -> None:
    """Those that were left would be the slowest."""
    with StubServer(service_s=0.4, servers=4) as server:
        for folder, *options in (("one",), ("two", "--processes", "2")):
            (tmp_path / folder).mkdir()
            before = len(server.served)
            outcome = run_locust(tmp_path / folder, server.url, "--run-time", "2s", *options)
            assert outcome.code == 0, outcome.output
            assert len(outcome.records) == len(server.served) - before >= 4


WRONG: dict[int, tuple[Callable[[JSON], JSON], str, str]] = {
    4: (lambda right: {**right, "seed": right["seed"] + 1}, "WRONG_ANSWER", "seed: is "),
    5: (lambda right: {**right, "image": right["image"][:40]}, "WRONG_ANSWER", "image: does not decode"),
    6: (lambda right: {**right, "image": "%"}, "INTERNAL", "answer: the answer cannot be read"),
    7: (lambda right: {"image": right["image"]}, "INTERNAL", "answer: the answer cannot be read: KeyError: 'seed'"),
    8: (lambda right: {"error": "FLUX_OVERLOADED: queue: is full"}, "OVERLOADED", "queue: is full"),
}
"""By a request's steps: what becomes of the right answer, the code that it is counted under, and the text."""
OTHERS = ("WRONG_ANSWER", "picture: shows ")
"""The stub's pictures show nothing but blue, which is wrong where one looks at them."""


def test_a_wrong_answer_is_a_failure_and_so_is_a_picture_of_something_else(tmp_path: Path) -> None:
    def answer(body: JSON, right: JSON) -> JSON:
        steps = body["num_inference_steps"]
        return WRONG[steps][0](right) if steps in WRONG else right

    with StubServer(service_s=0.005, servers=4, answer=answer) as server:
        outcome = run_locust(tmp_path, server.url, "--requests", "80", "--check-prompts")
    assert outcome.code == 1
    assert len(outcome.failures) == len(outcome.records) == 80
    assert {record["steps"] for record in outcome.records} == set(range(4, 13))
    for record in outcome.failures:
        code, text = WRONG[record["steps"]][1:] if record["steps"] in WRONG else OTHERS
        assert record["error"]["code"] == code
        assert record["error"]["text"].startswith(text)
        assert f"{code}: {text.split(':')[0]}" in outcome.output


def test_a_server_that_is_not_there_is_a_failure_of_each_request(tmp_path: Path) -> None:
    """Over each protocol, which users choose by chance."""
    dead = ("--grpc", "127.0.0.1:9", "--gateway-url", "http://127.0.0.1:9", "--request-timeout", "5")
    outcome = run_locust(tmp_path, "http://127.0.0.1:9", "--requests", "80", *dead, "--tags", *PROTOCOLS)
    assert outcome.code == 1
    assert {record["protocol"] for record in outcome.records} == set(PROTOCOLS)
    assert [record["error"]["code"] for record in outcome.records] == ["CONNECTION_FAILED"] * 80, outcome.records


def test_a_server_that_does_not_answer_in_time_is_a_failure(tmp_path: Path) -> None:
    with StubServer(service_s=5) as server:
        outcome = run_locust(tmp_path, server.url, "--requests", "4", "--request-timeout", "0.5")
    assert [record["error"]["code"] for record in outcome.records] == ["DEADLINE_EXCEEDED"] * 4
    assert all(0.5 <= record["ended"] - record["sent"] < 1.5 for record in outcome.records)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mix", "unifrom"], "mix: there is no 'unifrom'; must be bursty, dataset-c"),
        (["--shape", "ramp", "--shape-from", "4"], "--users: is 4; must be more than --shape-from, which is 4"),
        (
            ["--users", "1", "--processes", "2", "--requests", "10"],
            "--users: is 1; must be 2 or more, one for each worker",
        ),
        (["--records", "/dev/full", "--requests", "10"], "--records: cannot be written any more: .*No space left"),
        (["--records", "/proc/none", "--requests", "10"], "--records: cannot be written: "),
    ],
)
def test_what_cannot_be_run_ends_at_once_and_says_why(tmp_path: Path, options: list[str], message: str) -> None:
    with StubServer(service_s=0.01) as server:
        process = start_locust(tmp_path, server.url, *options)
        outcome = finish_locust(process, tmp_path, timeout_s=40)
    assert outcome.code == 2
    assert re.search(message, outcome.output), outcome.output


def test_a_ramp_ends_at_saturation(tmp_path: Path) -> None:
    """Two servers of 50 ms cannot do more than 40 a second."""
    with StubServer(service_s=0.05, servers=2) as server:
        shape = ("--shape", "ramp", "--shape-from", "1", "--shape-time", "30")
        outcome = run_locust(tmp_path, server.url, *shape, users=30)
    assert outcome.code == 0, outcome.output
    told = r"saturated: more than \d+ users bring no more than (3[6-9]|40)\."
    assert re.search(told, outcome.output), outcome.output


def test_a_crash_leaves_the_records_of_what_had_ended(tmp_path: Path) -> None:
    with StubServer(service_s=0.02, servers=4) as server:
        process = start_locust(tmp_path, server.url, "--run-time", "60s")
        server.wait_until_served(40)
        process.kill()
        outcome = finish_locust(process, tmp_path)
    assert len(outcome.records) >= 30


@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["one", "two"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_is_in_flight(
    tmp_path: Path, number: signal.Signals, options: tuple[str, ...]
) -> None:
    with StubServer(service_s=0.3, servers=4) as server:
        process = start_locust(tmp_path, server.url, "--run-time", "60s", *options)
        server.wait_until_served(10)
        process.send_signal(number)
        outcome = finish_locust(process, tmp_path, timeout_s=30)
        assert outcome.code == 0, outcome.output
        assert outcome.failures == []
        assert len(outcome.records) == len(server.served) >= 10
