"""The life of a server, with small programs in the place of tritonserver."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.triton.errors import ServerFailed
from tools.triton.installation import Installation
from tools.triton.server import TritonServer
from tools.triton.signals import StopRequested
from tools.triton.stub import PROGRAM

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


NEVER_READY = f"""
import pathlib, subprocess, time
print("a warning of the loader", flush=True)
while not pathlib.Path("{{go}}").exists():
    time.sleep(0.01)
subprocess.Popen(["{PROGRAM}", "60"], executable="sleep")
time.sleep(60)
"""


def make_server(folder: Path, program: str) -> TritonServer:
    script = folder / "tritonserver.py"
    script.write_text(program)
    installation = Installation(Path(sys.executable), "a test", (str(script),))
    return TritonServer(folder, models=(), installation=installation, arguments=("--allow-metrics=false",))


def test_a_server_that_drains_can_be_killed(tmp_path: Path) -> None:
    """As by a second Ctrl-C."""
    with make_server(tmp_path, STUBBORN) as server:
        threading.Timer(0.5, server.kill).start()
        assert server.stop() == -9
        assert server.stop() == 0, "stopping twice is no error"


def stop_when(condition: Callable[[], bool]) -> Callable[[], None]:
    def look() -> None:
        if condition():
            raise StopRequested

    return look


def test_a_start_that_is_interrupted_is_stopped_by_whoever_asked_and_tells_how_it_ended(tmp_path: Path) -> None:
    server = make_server(tmp_path, NEVER_READY.format(go=tmp_path / "never"))
    for signals, exit_code in (([], 0), ([signal.SIGKILL], -signal.SIGKILL)):
        with pytest.raises(StopRequested):
            server.start(stop_when(lambda: "loader" in server.log_tail()))
        assert server.poll() is None
        for _ in signals:
            server.kill()
        assert server.stop() == exit_code


def test_the_key_stays_until_triton_has_read_it_and_goes_as_soon_as_a_stub_runs(tmp_path: Path) -> None:
    server = make_server(tmp_path, NEVER_READY.format(go=tmp_path / "go"))

    def is_hidden() -> bool:
        line = Path(f"/proc/{server.pid}/cmdline").read_text()
        if "loader" in server.log_tail() and not (tmp_path / "go").exists():
            assert server.control_key in line
            (tmp_path / "go").touch()
        return server.control_key not in line and "triton-control=***" in line

    try:
        with pytest.raises(StopRequested):
            server.start(stop_when(is_hidden))
        assert (tmp_path / "go").exists()
    finally:
        server.stop()


def test_a_program_that_cannot_be_started_is_a_failure_in_one_line(tmp_path: Path) -> None:
    server = TritonServer(tmp_path, installation=Installation(tmp_path / "missing", "a test"))
    with pytest.raises(ServerFailed, match=r"^tritonserver could not be started: .*No such file.*missing'$"):
        server.start()
    assert server.stop() == 0


def test_options_that_the_launcher_decides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="--http-port of tritonserver is set by the launcher"):
        TritonServer(tmp_path, arguments=["--http-port=1"])
