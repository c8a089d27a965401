from __future__ import annotations

import sys
import threading
from pathlib import Path

from tools.triton.installation import Installation
from tools.triton.server import TritonServer

STUBBORN = """
import http.server, signal, sys

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

signal.signal(signal.SIGTERM, signal.SIG_IGN)
port = next(int(option.partition("=")[2]) for option in sys.argv if option.startswith("--http-port="))
http.server.HTTPServer(("127.0.0.1", port), Ready).serve_forever()
"""


def test_a_server_that_drains_can_be_killed(tmp_path: Path) -> None:
    """As by a second Ctrl-C."""
    script = tmp_path / "tritonserver.py"
    script.write_text(STUBBORN)
    installation = Installation(Path(sys.executable), "a test", (str(script),))
    no_metrics = ("--allow-metrics=false",)
    with TritonServer(tmp_path, models=(), installation=installation, arguments=no_metrics) as server:
        threading.Timer(0.5, server.kill).start()
        assert server.stop() == -9
        assert server.stop() == 0, "stopping twice is no error"
