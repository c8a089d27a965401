"""The launcher against a real Triton with a small model that echoes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.echo import ask, make_repository
from tools.triton import health
from tools.triton.errors import PortTaken, ServerFailed
from tools.triton.server import TritonServer
from tools.triton.stub import Stub, find_stubs
from tools.triton.watchdog import Watchdog

PROJECT = Path(__file__).resolve().parents[2]
ANY_PORTS = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "models")


@pytest.fixture
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, ["echo"]) as server:
        yield server


def meet(server: TritonServer, stub: Stub) -> None:
    """Kills a stub and sends requests until one has met it."""
    os.kill(stub.pid, signal.SIGKILL)
    with pytest.raises(urllib.error.HTTPError):
        for _ in range(20):
            ask(server, "?")


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


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


def test_a_dead_stub_is_noticed_and_its_model_serves_again(server: TritonServer) -> None:
    server.load("echo", parameters={"greeting": "moin"})
    assert wait_for(lambda: len(server.stubs()) == 2)  # those of the first load have gone
    stubs = server.stubs()
    with Watchdog(server, interval_s=0.1, settle_s=6.0, drain_s=2.0) as watchdog:
        meet(server, stubs[0])
        assert wait_for(lambda: watchdog.reloads == 1)
        # The other instance waits for ever to be released; then it is killed.
        assert wait_for(lambda: not any(stub.alive for stub in stubs))
        assert [ask(server, str(n)) for n in range(6)] == [f"moin {n}" for n in range(6)]
        time.sleep(1)
        assert watchdog.reloads == 1
        assert len(server.stubs()) == 2
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 15  # Triton itself would wait for its lost model until the exit timeout, 30 s


def test_unloads_and_reloads_are_no_alarm(server: TritonServer) -> None:
    with Watchdog(server, interval_s=0.05, settle_s=0.3) as watchdog:
        for greeting in ("a", "b"):
            server.load("echo", parameters={"greeting": greeting})
            server.unload("echo")
            server.load("echo")
        time.sleep(1)
        assert watchdog.reloads == 0


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


class Foreground:
    """`python -m tools.triton`, or a command that ends in it, as somebody runs it."""

    def __init__(self, repository: Path, command: list[str], log_file: Path) -> None:
        self.repository = repository
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.log_file = log_file
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"ended with {self.process.wait()} before {text!r}:\n{''.join(self.lines)}")

    def rest(self) -> str:
        """Waits for the end and gives the rest of the output."""
        output, _ = self.process.communicate(timeout=60)
        return output

    def stubs(self) -> list[Stub]:
        return [stub for stub in find_stubs() if stub.arguments[1].startswith(str(self.repository))]


@pytest.fixture
def foreground(repository: Path, tmp_path: Path) -> Iterator[Callable[..., Foreground]]:
    started = []

    def start(*options: str, make: bool = False) -> Foreground:
        log_file = tmp_path / "triton.log"
        all_options = [f"--model-repository={repository}", "--model=echo", f"--log-file={log_file}", *options]
        if make:
            prefix = f"VENV={sys.prefix}"
            ports = ["HTTP_PORT=0", "GRPC_PORT=0", "METRICS_PORT=0"]
            stamp = f"--old-file={sys.prefix}/.complete"  # the environment that runs this test is complete
            command = ["make", "serve", stamp, prefix, *ports, f"SERVE_OPTIONS={' '.join(all_options)}"]
        else:
            command = [sys.executable, "-m", "tools.triton", *ANY_PORTS, *all_options]
        started.append(Foreground(repository, command, log_file))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()
        for stub in each.stubs():
            stub.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_server_stops_cleanly_on_a_signal(
    foreground: Callable[..., Foreground], number: signal.Signals
) -> None:
    launcher = foreground("--set", "greeting=moin")
    launcher.read_until("serves echo")
    launcher.read_until("HTTP     http://127.0.0.1:")
    assert len(launcher.stubs()) == 2
    launcher.process.send_signal(number)
    assert "Stopping" in launcher.rest()
    assert launcher.process.returncode == 0
    assert launcher.stubs() == []
    assert "successfully unloaded 'echo'" in launcher.log_file.read_text(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["make alone", "the group, as Ctrl-C does"])
def test_make_serve_stops_cleanly_on_a_signal(
    foreground: Callable[..., Foreground], number: signal.Signals, whom: str
) -> None:
    launcher = foreground(make=True)
    launcher.read_until("Ctrl-C stops it")
    if whom == "make alone":
        launcher.process.send_signal(number)
    else:
        os.killpg(launcher.process.pid, number)
    assert "Stopping" in launcher.rest()
    assert launcher.stubs() == []
    assert "successfully unloaded 'echo'" in launcher.log_file.read_text(errors="replace")


def test_a_signal_during_the_start_leaves_nothing(foreground: Callable[..., Foreground]) -> None:
    launcher = foreground()
    launcher.read_until("Starting Triton")
    launcher.process.send_signal(signal.SIGTERM)
    launcher.rest()
    assert launcher.process.returncode == 0
    assert launcher.stubs() == []


def test_a_server_that_dies_is_told_with_its_log(foreground: Callable[..., Foreground]) -> None:
    launcher = foreground("--quiet")
    launcher.read_until("Ctrl-C stops it")
    stubs = launcher.stubs()
    os.kill(int(stubs[0].arguments[5]), signal.SIGKILL)  # Triton tells its stubs its own process id
    output = launcher.rest()
    assert launcher.process.returncode == 128 + signal.SIGKILL
    assert "tritonserver ended with code -9" in output and "Started HTTPService" in output
    assert launcher.stubs() == []


def test_a_launcher_that_is_killed_takes_its_server_along(foreground: Callable[..., Foreground]) -> None:
    launcher = foreground()
    launcher.read_until("Ctrl-C stops it")
    launcher.process.kill()
    assert wait_for(lambda: not launcher.stubs())
