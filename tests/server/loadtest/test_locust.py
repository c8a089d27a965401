"""Locust over every protocol against a real Triton with flux-tiny: answers are right, and what they say is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.traffic.protocols import PROTOCOLS
from tests.server.servers import grpc, settled
from tests.unit.client.gateway.running import running
from tests.unit.loadtest.sending.locust_process import Outcome, run_locust
from tools.triton.server import TritonServer

TIMES = ("queue_ms", "encode_ms", "denoise_ms", "decode_ms", "total_ms")


@pytest.fixture(scope="module")
def gateway(tiny: TritonServer) -> Iterator[str]:
    with running(url=tiny.urls.grpc) as url:
        yield url


def run(folder: Path, server: TritonServer, *options: str) -> Outcome:
    return run_locust(folder, server.urls.http, "--grpc", grpc(server), *options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol(tmp_path: Path, tiny: TritonServer, gateway: str, protocol: str) -> None:
    before = settled(tiny).total("flux_images_total")
    options = ("--protocol", protocol, "--gateway-url", gateway, "--requests", "12", "--check-prompts")
    outcome = run(tmp_path, tiny, *options)
    assert (outcome.code, len(outcome.records), outcome.failures) == (0, 12, []), outcome.output
    assert settled(tiny).total("flux_images_total") - before == 12
    for record in outcome.records:
        assert record["name"] == f"{protocol} 128x128 {record['steps']} steps"
        assert record["intended"] == record["sent"] < record["ended"]
        assert (record["first_progress"] is not None) == (protocol == "grpc-stream")
        if record["first_progress"] is not None:
            assert record["sent"] < record["first_progress"] < record["ended"]
        assert all(record[name] >= 0 for name in TIMES)
        assert record["total_ms"] <= (record["ended"] - record["sent"]) * 1000
        assert 1 <= record["mean_batch"] <= 4
        assert record["bytes"] > 500


def test_tags_choose_several_protocols(tmp_path: Path, tiny: TritonServer) -> None:
    outcome = run(tmp_path, tiny, "--requests", "12", "--tags", "grpc-stream", "http-infer")
    assert (outcome.code, len(outcome.records)) == (0, 12), outcome.output
    assert {record["protocol"] for record in outcome.records} == {"grpc-stream", "http-infer"}


@pytest.mark.parametrize("protocol", ["grpc-stream", "http-generate"])
def test_several_processes(tmp_path: Path, tiny: TritonServer, protocol: str) -> None:
    options = ("--protocol", protocol, "--requests", "13", "--processes", "2", "--mix", "dataset-c-tiny")
    outcome = run(tmp_path, tiny, *options, "--check-prompts")
    assert (outcome.code, len(outcome.records), outcome.failures) == (0, 13, []), outcome.output
    assert len({record["seed"] for record in outcome.records}) == 13
    assert {record["class"] for record in outcome.records} <= {"64", "96", "128", "192"}


def test_an_open_loop_sends_more_than_there_are_users(tmp_path: Path, tiny: TritonServer) -> None:
    """All at once, as nobody waits for an answer: they share their steps."""
    options = ("--protocol", "grpc-stream", "--arrivals", "poisson", "--rate", "200", "--requests", "24")
    outcome = run(tmp_path, tiny, *options)
    assert (outcome.code, len(outcome.records)) == (0, 24), outcome.output
    assert max(record["mean_batch"] for record in outcome.records) > 4


def test_what_the_server_refuses_is_a_failure(tmp_path: Path, tiny: TritonServer, gateway: str) -> None:
    """Over each protocol, which users choose by chance."""
    entry = {"name": "huge", "weight": 1, "width": 1024, "height": 1024, "num_inference_steps": 4}
    mix = tmp_path / "huge.json"
    mix.write_text(json.dumps({"entries": [entry]}))
    outcome = run(tmp_path, tiny, "--gateway-url", gateway, "--mix", str(mix), "--requests", "80", "--tags", *PROTOCOLS)
    assert outcome.code == 1
    assert {record["protocol"] for record in outcome.records} == set(PROTOCOLS)
    assert [record["error"]["code"] for record in outcome.records] == ["INVALID_ARGUMENT"] * 80, outcome.records
    assert all("512" in record["error"]["text"] for record in outcome.records)


def test_a_picture_of_something_else_is_a_failure(tmp_path: Path, triton: TritonServer) -> None:
    """Random weights draw nothing that anybody asked for; without looking at them, the answers are fine."""
    assert run(tmp_path, triton, "--requests", "6").failures == []
    outcome = run(tmp_path, triton, "--requests", "6", "--check-prompts")
    assert outcome.code == 1
    assert [record["error"]["code"] for record in outcome.failures] == ["WRONG_ANSWER"] * 6
    assert "WRONG_ANSWER: picture" in outcome.output


def test_a_trace_is_replayed(tmp_path: Path, tiny: TritonServer) -> None:
    wanted = {"prompt": "a large cat on a red background", "width": 128, "height": 128, "num_inference_steps": 4}
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(json.dumps({**wanted, "at": n / 10, "seed": n, "priority": 1}) for n in range(8)))
    options = ("--protocol", "grpc-unary", "--arrivals", "trace", "--trace", str(trace), "--check-prompts")
    outcome = run(tmp_path, tiny, *options)
    assert (outcome.code, outcome.failures) == (0, []), outcome.output
    assert sorted(record["seed"] for record in outcome.records) == list(range(8))
