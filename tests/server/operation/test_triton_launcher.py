"""The launcher against a real Triton with a small model that echoes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server.echo import ask, make_repository, wait_for
from tools.triton import health
from tools.triton.errors import PortTaken, ServerFailed
from tools.triton.server import TritonServer
from tools.triton.stub import find_stubs


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "models")


@pytest.fixture
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, ["echo"]) as server:
        yield server


def test_serves_while_it_runs_and_leaves_nothing(repository: Path) -> None:
    with TritonServer(repository, ["echo"], environment={"FLUX_GREETING": "moin"}) as server:
        assert ask(server, "world") == "moin world"
        with urllib.request.urlopen(server.urls.metrics, timeout=10) as response:
            assert b"nv_inference_count" in response.read()
        with socket.create_connection(("127.0.0.1", server.grpc_port), timeout=5):
            pass
        log_file = server.log_file
        assert log_file is not None and "successfully loaded 'echo'" in server.log_tail(200)
        stubs = server.stubs()
        assert len(stubs) == 2
    assert not any(stub.alive for stub in stubs)
    assert not server.api.ready()
    assert not log_file.exists()
    assert server.stop() == 0


def test_starts_again_on_the_same_ports(repository: Path) -> None:
    server = TritonServer(repository, ["echo"])
    for _ in range(2):
        with server:
            assert ask(server, "again") == "hello again"


def test_stops_whatever_a_signal_has_cut_off(server: TritonServer) -> None:
    class Interrupt(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(1, 200):
            with contextlib.suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, number * 1e-6 + 1e-5)
                while server.poll() is None:
                    pass
    finally:
        signal.signal(signal.SIGALRM, former)
    assert server.stop() == 0


def test_a_taken_port_is_named_before_anything_starts(repository: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = TritonServer(repository, ["echo"], grpc_port=port)
        with pytest.raises(PortTaken, match=rf"port {port} .*--grpc-port .*GRPC_PORT"):
            server.start()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid


def test_a_model_that_does_not_load_shows_why(repository: Path, tmp_path: Path) -> None:
    log_file = tmp_path / "triton.log"
    server = TritonServer(repository, ["echo"], environment={"FLUX_GREETING": "none"}, log_file=log_file)
    with pytest.raises(ServerFailed, match="ended with code 1") as caught:
        server.start()
    assert "greeting: none is not allowed" in caught.value.log_tail
    assert caught.value.exit_code == 1
    assert "greeting: none is not allowed" in log_file.read_text()
    assert not [stub for stub in find_stubs() if str(repository) in stub.arguments[1]]


def test_an_unknown_model_or_repository_fails(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="missing"):
        TritonServer(repository, ["missing"]).start()
    with pytest.raises(ServerFailed, match="no model repository at"):
        TritonServer(tmp_path / "nowhere", ["echo"]).start()


def test_loads_with_other_parameters_and_unloads(server: TritonServer) -> None:
    server.load("echo", parameters={"greeting": "moin"})
    assert ask(server, "world") == "moin world"
    with pytest.raises(ServerFailed, match=r"(?s)was not loaded.*greeting: none is not allowed"):
        server.load("echo", parameters={"greeting": "none"})
    server.unload("echo")
    assert not server.api.ready("echo")
    assert server.stubs() == []
    server.load("echo")
    assert ask(server, "world") == "hello world"


def test_health_tells_a_model_with_a_dead_stub(server: TritonServer, capsys: pytest.CaptureFixture[str]) -> None:
    check = ["echo", f"--port={server.http_port}", f"--server-pid={server.pid}"]
    assert health.main(check) == 0
    assert capsys.readouterr().out == "well: echo\n"
    os.kill(server.stubs()[0].pid, signal.SIGKILL)
    assert wait_for(lambda: len(server.stubs()) == 1)
    assert server.api.ready("echo")
    assert health.main(check) == 1
    assert capsys.readouterr().out == "model echo: 1 of 2 instances have a living stub\n"
    server.unload("echo")
    assert health.main(check) == 1
    assert capsys.readouterr().out == "model echo is not ready\n"
    server.stop()
    assert health.main(check[:2]) == 1
    assert capsys.readouterr().out.endswith("is not ready\n")


DRAINING = """
import os, signal, threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.senders = []
        told, tells = os.pipe()
        os.set_blocking(tells, False)
        signal.set_wakeup_fd(tells)  # the stub's main thread waits outside of Python, where no handler of Python runs
        signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=self.end, args=(told,), daemon=True).start()

    def end(self, told):
        os.read(told, 1)
        for sender in self.senders:
            echo = np.array([[os.environ["FLUX_DRAIN_S"].encode()]], dtype=object)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("echo", echo)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def execute(self, requests):
        self.senders += [request.get_response_sender() for request in requests]
"""


def test_models_are_told_of_the_end_and_how_long_they_have(repository: Path) -> None:
    (repository / "echo" / "1" / "model.py").write_text(DRAINING)
    server = TritonServer(repository, ["echo"], exit_timeout_s=8).start()
    with ThreadPoolExecutor(4) as pool:
        try:
            answers = [pool.submit(ask, server, str(n)) for n in range(4)]
            wait_for(lambda: requests_taken(server) == 4)
        finally:
            exit_code = server.stop()
        assert [answer.result() for answer in answers] == ["6"] * 4
    assert exit_code == 0


def requests_taken(server: TritonServer) -> int:
    """How many have reached the model: Triton counts a request when `execute` returns."""
    with urllib.request.urlopen(f"{server.urls.http}/v2/models/echo/stats", timeout=10) as response:
        count: int = json.loads(response.read())["model_stats"][0]["inference_count"]
    return count
