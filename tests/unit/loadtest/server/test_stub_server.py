"""The stub keeps to its service time; figures are held against it, so it is held first."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from typing import Any

from tests.unit.loadtest.server.stub_server import StubServer


def post(server: StubServer, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(f"{server.url}/v2/models/flux/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
    return content


def test_requests_are_served_one_after_another_or_so_many_at_once() -> None:
    for servers, least_s in ((1, 0.199), (2, 0.099)):  # sums of floats
        with StubServer(0.05, servers) as server:
            begun = time.monotonic()
            threads = [threading.Thread(target=post, args=(server, "generate", {"seed": seed})) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert time.monotonic() - begun >= least_s
            assert max(one.done_s for one in server.served) - server.served[0].arrived_s >= least_s
            assert all(abs(one.done_s - one.began_s - 0.05) < 1e-9 for one in server.served)


def test_a_stall_delays_all_that_come_after() -> None:
    with StubServer(0.01) as server:
        server.stall(0.2)
        begun = time.monotonic()
        post(server, "generate", {})
        assert time.monotonic() - begun >= 0.2


def test_it_streams_progress_and_the_final_answer() -> None:
    with StubServer(0.02) as server:
        body = {"progress": True, "num_inference_steps": 3, "seed": 5, "width": 64, "height": 96}
        lines = post(server, "generate_stream", body).decode().split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event["event"] for event in events] == ["progress"] * 3 + ["final"]
    assert events[-1]["seed"] == 5
    assert json.loads(events[-1]["info"])["height"] == 96
