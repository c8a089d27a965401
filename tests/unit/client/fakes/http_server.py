"""An HTTP server in this process that speaks Triton's protocol as `wire_server` does gRPC's."""

from __future__ import annotations

import json
import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.unit.client.fakes.http_messages import event_of, infer_answer, infer_request, stream_request
from tests.unit.client.fakes.model import FakeModel


class HttpServer(FakeModel):
    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self.metrics = ""
        """What `/metrics` says, which Triton has on a port of its own."""
        self.proxy_says: tuple[int, bytes] | None = None
        """Status and body of what stands in front of the server and answers in its place."""
        self.connections = 0
        """Those that were ever made."""
        self._server = _Server(self, port)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"{self.url}/metrics"

    def stop(self) -> None:
        """Cuts all connections. Stopping twice is no error."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, model: HttpServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model = model
        self.open: set[socket.socket] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The caller has left, or the server stops: what a behaviour raises fails its request, and the test with it."""


class _Caller:
    """The context of a request: tells when its connection ends before its answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._over = False
        self.answered = False
        """The end of the answer is on its way: that the connection ends then is no leaving."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._over:
                self._callbacks.append(callback)
            return not self._over

    def end(self) -> None:
        with self._lock:
            self._over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)
        self.server.model.connections += 1

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        model = self.server.model
        if self.path == "/metrics":
            self._send(200, model.metrics.encode(), "text/plain")
        elif self.path == "/v2/health/live":
            self._send(200)
        elif self.path == "/v2/health/ready":
            self._send(200 if model.server_ready else 400)
        elif self.path == "/v2":
            self._send_json({"name": "triton", "version": "2.51.0"})
        elif self.path == "/v2/models/flux/ready":
            self._send(200) if model.model_ready else self._send_error(400, "Model version not ready")
        elif self.path == "/v2/models/flux/config":
            self._send_error(404, model.refusal) if model.refusal else self._send_json(model.config)
        else:
            self._send_error(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if says := self.server.model.proxy_says:
            self._send(*says, kind="text/html")
        elif match := re.fullmatch(r"/v2/repository/models/(\w+)/(load|unload)", self.path):
            self._repository(match[1], match[2], body)
        elif match := re.fullmatch(r"/v2/models/(\w+)/generate_stream", self.path):
            self._stream(stream_request(match[1], body))
        elif match := re.fullmatch(r"/v2/models/(\w+)/infer", self.path):
            self._infer(infer_request(match[1], body, int(self.headers["Inference-Header-Content-Length"])))
        else:
            self._send_error(404, f"no such path: {self.path}")

    def _repository(self, name: str, what: str, body: bytes) -> None:
        model = self.server.model
        model.control_keys.append(self.headers["triton-control"])
        if model.refusal:
            self._send_error(500, model.refusal)
            return
        if what == "load":
            model.loads.append((name, json.loads(body).get("parameters", {}).get("config")))
        else:
            model.unloads.append(name)
        self._send(200)

    def _stream(self, request: Any) -> None:
        """Server-sent events; the status says how the first of them went."""
        begun = False
        with self._watched() as caller:
            for response in self.server.model.answer(request, caller):
                event = event_of(response)
                if event is None:
                    continue
                if not begun:
                    self.send_response(_status(event.get("error", "")))
                    self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    begun = True
                self._send_chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
            caller.answered = True
            self.server.model.count_ended()
            self._send_chunk(b"") if begun else self._send(200)

    def _infer(self, request: Any) -> None:
        with self._watched() as caller:
            responses = [response for response in self.server.model.answer(request, caller) if event_of(response)]
            self.server.model.count_ended()
        if not responses:
            self._send_error(500, "the model sent no response")
        elif error := responses[-1].error_message:
            self._send_error(_status(error), error)
        else:
            header, contents = infer_answer(responses[-1].infer_response)
            length = {"Inference-Header-Content-Length": str(len(header))}
            self._send(200, header + contents, "application/octet-stream", length)

    @contextmanager
    def _watched(self) -> Iterator[_Caller]:
        """Watches the connection while a request is answered."""
        model, caller = self.server.model, _Caller()
        answered, wake = socket.socketpair()

        def watch() -> None:
            with selectors.DefaultSelector() as selector:
                selector.register(self.connection, selectors.EVENT_READ)
                selector.register(wake, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select()]
            # On the connection nothing but its end can come now, also where writing to it has failed meanwhile.
            if self.connection in ready and not caller.answered:
                model.cancelled.set()
            caller.end()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield caller
        finally:
            answered.close()
            watcher.join()
            wake.close()

    def _send(
        self, status: int, body: bytes = b"", kind: str = "text/plain", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send_error(self, status: int, message: str) -> None:
        self._send_json({"error": message}, status)

    def _send_chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


def _status(error: str) -> int:
    """As Triton answers to these errors."""
    for part, status in (("INVALID_ARGUMENT", 400), ("unknown model", 404), ("OVERLOADED", 503), ("queue size", 503)):
        if part in error:
            return status
    return 500 if error else 200
