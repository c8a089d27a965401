"""The health check's small picture, and what counts as an answer."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tools.triton import health
from tools.triton.api import TritonApi
from tools.triton.watching.probe import draws, is_silent, problem_drawing

INPUTS = [
    {"name": name} for name in ("prompt", "height", "width", "num_inference_steps", "priority", "deadline_ms", "seed")
]
ANSWERS: dict[str, tuple[int, dict[str, str], str]] = {
    "a picture": (200, {"image": "…"}, ""),
    "no room": (400, {"error": "FLUX_OVERLOADED: queue: 512 are in flight [request 1]"}, ""),
    "no time": (400, {"error": "FLUX_DEADLINE_EXCEEDED: deadline_ms: 900 ms are over [request 1]"}, ""),
    "a failure": (
        400,
        {"error": "FLUX_INTERNAL: device: CUDA error [request 1]"},
        "FLUX_INTERNAL: device: CUDA error [request 1]",
    ),
    "stopping": (400, {"error": "FLUX_CANCELLED: server: ends"}, "FLUX_CANCELLED: server: ends"),
}


class Model(http.server.ThreadingHTTPServer):
    """A Triton with a model `flux` that draws, in no process of its own."""

    def __init__(self) -> None:
        self.status, self.answer, self.delay_s = 200, {"image": "…"}, 0.0
        self.requests: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Model

    def do_GET(self) -> None:
        self._send(200, {"backend": "mock", "input": INPUTS} if self.path.endswith("/config") else {})

    def do_POST(self) -> None:
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        time.sleep(self.server.delay_s)
        self._send(self.server.status, self.server.answer)

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as model:
        threading.Thread(target=model.serve_forever).start()
        yield model
        model.shutdown()


def api(model: Model) -> TritonApi:
    return TritonApi("127.0.0.1", model.server_address[1])


@pytest.mark.parametrize("what", ANSWERS)
def test_what_counts_as_drawing(what: str, model: Model) -> None:
    model.status, model.answer, problem = ANSWERS[what]
    assert problem_drawing(api(model), "flux", 10.0) == problem
    assert not is_silent(api(model), "flux", 10.0)


def test_no_answer_is_a_problem(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.delay_s = 2.0
    assert is_silent(api(model), "flux", 0.2)
    check = ["flux", f"--port={model.server_address[1]}", "--probe-timeout=0.2"]
    assert health.main(check) == 0, "it is asked for no picture"
    assert health.main([*check, "--probe"]) == 1
    assert capsys.readouterr().out == "well: flux\nmodel flux does not draw: no answer within 0.2 s\n"


def test_the_picture_is_small_urgent_and_given_up_before_the_check_gives_up(model: Model) -> None:
    assert problem_drawing(api(model), "flux", 10.0) == ""
    (request,) = model.requests
    assert request.pop("prompt")
    assert request == {"num_inference_steps": 1, "height": 64, "width": 64, "priority": 1, "deadline_ms": 9000}


def test_only_a_model_that_takes_all_of_a_question_is_asked() -> None:
    assert draws({"input": INPUTS})
    for missing in INPUTS[:-1]:
        assert not draws({"input": [each for each in INPUTS if each != missing]})
    assert not draws({})
