"""The routes of the API that the gateway replaces."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
from typing import Any

import httpx2
import pytest
from PIL import Image

from tests.unit.client.fakes.answers import step
from tests.unit.client.fakes.command import BOUND_S, draw, inputs_of, refuse, stay, wait_until
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.model_behaviours import fail_with
from tests.unit.client.gateway.running import client, error_of, running

OPTIONS = {
    "num_inference_steps": 5,
    "guidance_scale": 2,
    "width": 64,
    "height": 32,
    "seed": 3,
    "lora": "ink:0.5",
    "negative_prompt": "dull",
    "true_cfg_scale": 1.5,
}


def picture_of(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["image"])))


def test_generate(gateway: httpx2.Client, server: WireServer) -> None:
    answer = gateway.post("/generate", json={"prompt": "a", **OPTIONS}).json()
    assert (answer["success"], answer["seed"], picture_of(answer).format) == (True, 3, "PNG")
    assert 0 < answer["generation_time"] < BOUND_S
    assert answer["parameters"] == {
        "prompt": "a",
        "num_inference_steps": 8,
        "guidance_scale": 3.5,
        "width": 32,
        "height": 16,
        "seed": 3,
    }
    sent = inputs_of(server.requests[0])
    assert {name: sent[name] for name in OPTIONS} == OPTIONS


def test_a_failure_does_not_concern_the_rest_of_a_batch(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = refuse({"bad": "FLUX_INVALID_ARGUMENT: prompt: is bad [request r]"})
    answer = gateway.post("/batch-generate", json={"prompts": ["a", "bad", "b"], "seed": 4}).json()
    assert not answer["success"]
    first, second, third = answer["results"]
    assert [item["prompt"] for item in answer["results"]] == ["a", "bad", "b"]
    assert first["seed"] == third["seed"] == 4
    assert second["error"]["param"] == "prompt" and "image" not in second
    assert answer["total_time"] > 0
    assert gateway.post("/batch-generate", json={"prompts": ["a", "b"]}).json()["success"]


def test_a_batch_of_which_nothing_comes(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with("FLUX_INVALID_ARGUMENT: width: is 9 [request r]")
    answer = gateway.post("/batch-generate", json={"prompts": ["a", "b"], "width": 9})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "width")


@pytest.mark.parametrize("prompts", [[], ["a"] * 65, "a", [5], ["a", "\ud800"]])
def test_prompts_that_are_no_batch(prompts: Any, alone: httpx2.Client) -> None:
    content = json.dumps({"prompts": prompts})
    answer = alone.post("/batch-generate", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["param"].startswith("prompts")


class Steps:
    """A server that makes a step, and the rest when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, request: Any, context: Any) -> Any:
        yield step(1, 2)
        assert self.go_on.wait(BOUND_S)
        yield step(2, 2)
        yield from draw(request, context)


def test_a_job_from_its_beginning_to_its_end(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = steps = Steps()
    made = gateway.post("/async-generate", json={"prompt": "a", "seed": 6})
    assert (made.status_code, made.json()["status"]) == (202, "queued")
    url = made.json()["status_url"]

    def state() -> dict[str, Any]:
        return dict(gateway.get(url).json())

    assert wait_until(lambda: bool(state()["status"] == "running"))
    assert state()["progress"] == {"step": 1, "total_steps": 2}
    assert state()["result"] is None
    steps.go_on.set()
    assert wait_until(lambda: bool(state()["status"] == "completed"))
    assert state()["job_id"] == made.json()["job_id"]
    assert state()["result"]["seed"] == 6
    assert picture_of(state()["result"]).size == (32, 16)
    assert gateway.delete(url).json()["status"] == "completed"
    assert "flux_gateway_images_total 1.0" in gateway.get("/metrics").text


def test_a_job_that_fails(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with("FLUX_OUT_OF_MEMORY: device: is full [request r]", after_steps=1)
    url = gateway.post("/async-generate", json={"prompt": "a"}).json()["status_url"]
    assert wait_until(lambda: bool(gateway.get(url).json()["status"] == "failed"))
    assert gateway.get(url).json()["error"]["code"] == "out_of_memory"


def test_a_job_that_is_cancelled(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = stay
    url = gateway.post("/async-generate", json={"prompt": "a"}).json()["status_url"]
    assert wait_until(lambda: len(server.requests) == 1)
    assert gateway.delete(url).json()["status"] == "cancelled"
    assert server.cancelled.wait(BOUND_S)
    assert gateway.get(url).json()["status"] == "cancelled"
    assert error_of(gateway.get("/jobs/none"))["code"] == "not_found"


def test_a_stopped_gateway_cancels_its_jobs(server: WireServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fluxclient.gateway")
    server.behaviour = stay
    with running(url=server.url) as url, client(url) as http:
        job = http.post("/async-generate", json={"prompt": "a"}).json()["job_id"]
        assert wait_until(lambda: len(server.requests) == 1)
    assert server.cancelled.wait(BOUND_S)
    assert f"job {job} cancelled" in caplog.messages


def test_no_room_for_another_job(server: WireServer) -> None:
    server.behaviour = stay
    with running(url=server.url, max_jobs=2) as url, client(url) as http:
        jobs = [http.post("/async-generate", json={"prompt": "a"}).json() for _ in range(2)]
        refused = http.post("/async-generate", json={"prompt": "a"})
        assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
        http.delete(jobs[0]["status_url"])
        assert http.post("/async-generate", json={"prompt": "a"}).status_code == 202
        assert http.get(jobs[0]["status_url"]).status_code == 404  # gave its place
        assert http.get(jobs[1]["status_url"]).json()["status"] == "queued"


def test_jobs_whose_end_was_told_go_before_others(drawing_server: WireServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fluxclient.gateway")
    with running(url=drawing_server.url, max_jobs=2) as url, client(url) as http:

        def finished() -> str:
            job = http.post("/async-generate", json={"prompt": "a"}).json()
            assert wait_until(lambda: any(f"job {job['job_id']} completed" in line for line in caplog.messages))
            return str(job["status_url"])

        older, newer = finished(), finished()
        assert http.head(older).status_code == 200, "which tells nothing of its end"
        assert http.get(newer).json()["status"] == "completed"
        finished()
        assert http.get(newer).status_code == 404
        assert http.get(older).json()["status"] == "completed"
