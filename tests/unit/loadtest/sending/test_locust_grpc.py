"""Locust over plain gRPC: what it measures of a request does not depend on those beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.unit.client.fakes.answers import picture, response, step
from tests.unit.client.fakes.behaviours import draw_in_steps
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.loadtest.sending.locust_process import run_locust

SLOW_S, QUICK_S = 2.0, 0.05


class UnaryServer(WireServer):
    """Answers flux_unary; requests of nine steps are slow."""

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        values = dict(zip((given.name for given in request.inputs), request.raw_input_contents, strict=True))
        steps, seed = (int.from_bytes(values[name], "little") for name in ("num_inference_steps", "seed"))
        time.sleep(SLOW_S if steps == 9 else QUICK_S)
        return response(
            image=np.array([[picture(size=(64, 64))]], np.object_),
            seed=np.array([[seed]], np.int64),
            info=np.array([[json.dumps({"steps": steps}).encode()]], np.object_),
        ).infer_response


@pytest.fixture
def server() -> Iterator[UnaryServer]:
    server = UnaryServer()
    yield server
    server.stop()


def test_slow_answers_do_not_hold_up_quick_ones(tmp_path: Path, server: UnaryServer) -> None:
    """gRPC under gevent waits for blocking calls in ten threads; here twelve slow ones are in flight."""
    size = {"prompt": "a cat", "width": 64, "height": 64}
    slow = [{**size, "at": 0.0, "num_inference_steps": 9, "seed": n} for n in range(12)]
    quick = [{**size, "at": 0.5 + n / 10, "num_inference_steps": 4, "seed": n} for n in range(10)]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(map(json.dumps, [*slow, *quick])))
    options = ("--protocol", "grpc-unary", "--grpc", server.url.removeprefix("grpc://"))
    outcome = run_locust(tmp_path, "http://127.0.0.1:9", *options, "--arrivals", "trace", "--trace", str(trace))
    assert (outcome.code, len(outcome.records), outcome.failures) == (0, 22, []), outcome.output
    assert max(record["ended"] - record["intended"] for record in outcome.records if record["steps"] == 4) < 1.0


def test_a_sign_of_life_is_no_first_step(tmp_path: Path, server: UnaryServer) -> None:
    """And the model that is named is the one that gets the load."""

    def wait_in_line(request: Any, context: Any) -> Iterator[Any]:
        yield step(0, 2)
        time.sleep(1.0)
        yield from draw_in_steps(request, context)

    server.behaviour = wait_in_line
    options = ("--protocol", "grpc-stream", "--grpc", server.url.removeprefix("grpc://"), "--model", "flux_dev")
    outcome = run_locust(tmp_path, "http://127.0.0.1:9", *options, "--requests", "1")
    (record,) = outcome.records
    assert record["first_progress"] - record["sent"] >= 1.0, outcome.output
    assert [request.model_name for request in server.requests] == ["flux_dev"]
