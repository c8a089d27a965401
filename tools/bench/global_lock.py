"""The peer that this project replaces: one FluxPipeline behind a global lock and an HTTP server.

`python -m tools.bench.global_lock` prints the port once it serves. All pictures are drawn by one thread, which is the
lock, and the kindest one: torch run from a thread for each connection would be slower still.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tools.bench.pipeline import Pipeline
from tools.bench.traffic import Wanted


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, model: Path, dtype: str, threads: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = ThreadPoolExecutor(1)
        self.pipeline = self.lock.submit(Pipeline, model, dtype, threads).result()

    def draw(self, wanted: Wanted) -> bytes:
        file = io.BytesIO()
        self.lock.submit(self.pipeline.draw, wanted).result().save(file, "png", compress_level=1)
        return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        wanted = Wanted(**json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        body = json.dumps({"image": base64.b64encode(self.server.draw(wanted)).decode()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    server = Server(options.model, options.dtype, options.threads)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
