"""The part of Triton's HTTP API that loads models, with a model that does nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tools.triton.api import TritonApi

CONFIGURATION: dict[str, Any] = {
    "name": "flux",
    "instance_group": [{"name": "flux", "count": 1, "kind": "KIND_CPU"}],
    "parameters": {"scheduling": {"string_value": "continuous"}},
}


class ApiServer:
    """`refusal` is what a load is answered with, if anything; `loaded` has the configurations that were loaded.

    With a `control_key` loads want it, as with tritonserver's --http-restricted-api.
    """

    def __init__(self, control_key: str | None = None) -> None:
        self.configuration = deepcopy(CONFIGURATION)
        self.loaded: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.refusal = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

            def do_GET(self) -> None:
                if self.path.startswith("/v2/models/flux/config"):
                    self.reply(200, outer.configuration)
                elif self.path.startswith("/v2/models/") and "flux" not in self.path:
                    self.reply(400, {"error": "Request for unknown model: 'other' is not found"})
                else:
                    self.reply(200, {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if control_key and self.headers["triton-control"] != control_key:
                    self.reply(403, {"error": "This API is restricted, expecting header 'triton-control'"})
                    return
                if outer.refusal:
                    self.reply(400, {"error": outer.refusal})
                    return
                with outer.changed:
                    outer.configuration = json.loads(body["parameters"]["config"])
                    outer.loaded.append(outer.configuration)
                    outer.changed.notify_all()
                self.reply(200, {})

            def reply(self, status: int, value: object) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.api = TritonApi("127.0.0.1", self._http.server_address[1], control_key)

    def wait_for_loads(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.loaded) >= count, timeout=20)

    @contextmanager
    def serving(self) -> Iterator[ApiServer]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()
