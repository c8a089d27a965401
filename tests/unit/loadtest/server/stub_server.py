"""A server of `generate` and `generate_stream` whose figures theory knows: M/D/c, for arrivals that are Poisson.

`servers` requests are served at a time, each for exactly `service_s` seconds, in the order of their arrival, from a
queue without end. When a request is done is computed as it arrives, so a busy machine delays answers by what its
scheduler costs but never adds up. Answers are as flux gives them: a PNG of the size that was asked for, its seed, info.
"""

from __future__ import annotations

import base64
import functools
import heapq
import io
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

JSON = dict[str, Any]

DEFAULTS = {"width": 128, "height": 128, "num_inference_steps": 8, "guidance_scale": 3.5, "seed": 0}


@dataclass(frozen=True)
class Served:
    """One request, in seconds of `time.monotonic()`."""

    body: JSON
    arrived_s: float
    began_s: float
    done_s: float


class StubServer:
    """Serves from its making until `stop`; a context manager too.

    `answer` may change the final answer of a request, given its body, or give an `error` in its place:
    {"error": "FLUX_OVERLOADED: …"}. `served` has all requests that were taken, in the order of arrival. A configuration
    that is loaded sets the number of servers: the count of its instances.
    """

    def __init__(
        self, service_s: float, servers: int = 1, answer: Callable[[JSON, JSON], JSON] | None = None, port: int = 0
    ) -> None:
        self.service_s = service_s
        self.served: list[Served] = []
        self.configuration: JSON = {"name": "flux", "instance_group": [{"name": "flux", "count": servers}]}
        self._answer = answer
        self._lock = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._free_s = [0.0] * servers  # a heap: when each server is done with what it was given
        self._http = _Http(self, port)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stall(self, seconds: float) -> None:
        """Nobody is served for so long; what is being served now ends in time."""
        with self._lock:
            end_s = time.monotonic() + seconds
            self._free_s = [max(free_s, end_s) for free_s in self._free_s]
            heapq.heapify(self._free_s)

    def wait_until_served(self, requests: int) -> None:
        """Returns when so many have been taken."""
        with self._taken:
            enough = self._taken.wait_for(lambda: len(self.served) >= requests, timeout=30)
        assert enough, f"only {len(self.served)} of {requests} requests came"

    def load(self, configuration: JSON) -> None:
        with self._lock:
            self.configuration = configuration
            self._free_s = [0.0] * configuration["instance_group"][0]["count"]

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> StubServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def take(self, body: JSON) -> Served:
        """Puts a request in the queue and says when its turn is."""
        with self._lock:
            arrived_s = time.monotonic()
            began_s = max(arrived_s, self._free_s[0])
            heapq.heapreplace(self._free_s, began_s + self.service_s)
            served = Served(body, arrived_s, began_s, began_s + self.service_s)
            self.served.append(served)
            self._taken.notify_all()
        return served

    def final(self, served: Served) -> JSON:
        """The answer of a request that is done."""
        asked = {**DEFAULTS, **served.body}
        total_ms = (served.done_s - served.arrived_s) * 1000
        queue_ms = (served.began_s - served.arrived_s) * 1000
        info = {
            "model": "stub",
            "width": asked["width"],
            "height": asked["height"],
            "steps": asked["num_inference_steps"],
            "guidance_scale": asked["guidance_scale"],
            "max_sequence_length": 24,
            "lora": "",
            "queue_ms": queue_ms,
            "encode_ms": 0.0,
            "denoise_ms": total_ms - queue_ms,
            "decode_ms": 0.0,
            "total_ms": total_ms,
            "mean_batch": 1.0,
        }
        steps = asked["num_inference_steps"]
        answer = {
            "model_name": "flux",
            "image": _picture(asked["width"], asked["height"]),
            "seed": asked["seed"],
            "info": json.dumps(info),
            "event": "final",
            "step": steps,
            "total_steps": steps,
        }
        return self._answer(served.body, answer) if self._answer else answer


@functools.cache
def _picture(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (40, 80, 215)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, stub: StubServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stub = stub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has left is no error of the stub's."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer in one piece

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        if self.path in ("/v2/health/live", "/v2/health/ready", "/v2/models/flux/ready"):
            self._send(200, b"")
        elif self.path == "/v2":
            self._send_json(200, {"name": "triton", "version": "stub"})
        elif self.path == "/v2/models/flux/config":
            self._send_json(200, self.server.stub.configuration)
        else:
            self._send_json(404, {"error": f"no such path: {self.path}"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v2/models/flux/generate":
            served = self.server.stub.take(body)
            _sleep_until(served.done_s)
            answer = self.server.stub.final(served)
            self._send_json(500 if "error" in answer else 200, answer)
        elif self.path == "/v2/models/flux/generate_stream":
            self._stream(self.server.stub.take(body))
        elif self.path == "/v2/repository/models/flux/load":
            self.server.stub.load(json.loads(body["parameters"]["config"]))
            self._send_json(200, {})
        else:
            self._send_json(404, {"error": f"no such path: {self.path}"})

    def _stream(self, served: Served) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        steps = {**DEFAULTS, **served.body}["num_inference_steps"]
        if served.body.get("progress"):
            for step in range(1, steps + 1):
                _sleep_until(served.began_s + self.server.stub.service_s * step / steps)
                self._send_event({"event": "progress", "step": step, "total_steps": steps})
        _sleep_until(served.done_s)
        self._send_event(self.server.stub.final(served))
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, event: JSON) -> None:
        content = b"data: " + json.dumps(event).encode() + b"\n\n"
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def _send_json(self, status: int, value: JSON) -> None:
        self._send(status, json.dumps(value).encode())

    def _send(self, status: int, content: bytes) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
