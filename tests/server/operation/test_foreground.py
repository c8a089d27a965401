"""`make serve` with a small model that echoes: signals, crashes, and what is left."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.echo import make_repository
from tests.server.foreground import Foreground, launchers
from tests.server.servers import until
from tools.triton.shared_memory import SHARED_MEMORY


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[Callable[..., Foreground]]:
    with launchers(make_repository(tmp_path / "models"), tmp_path / "triton.log") as start:
        yield start


def server_pid(launcher: Foreground) -> int:
    return int(launcher.stubs()[0].arguments[5])  # Triton tells its stubs its own process id


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
    output = launcher.rest()
    assert "Stopping" in output and "error" not in output
    assert launcher.process.returncode == 0
    assert launcher.stubs() == []


def test_a_server_that_crashes_is_started_again_within_limits(foreground: Callable[..., Foreground]) -> None:
    launcher = foreground("--restarts=1", "--quiet")
    launcher.read_until("HTTP     http://127.0.0.1:")
    url = launcher.lines[-1].split()[-1]
    launcher.read_until("Ctrl-C stops it")
    first = server_pid(launcher)
    regions = launcher.regions()
    assert len(regions) == 2
    os.kill(first, signal.SIGKILL)
    launcher.read_until("tritonserver ended with code -9")
    assert "starting it again in 1 s, at most 1 times within 10 minutes" in launcher.lines[-1]
    launcher.read_until("tritonserver serves again")
    assert not any((SHARED_MEMORY / region).exists() for region in regions)
    assert server_pid(launcher) != first
    with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=10) as response:
        assert response.status == 200
    os.kill(server_pid(launcher), signal.SIGKILL)
    output = launcher.rest()
    assert launcher.process.returncode == 128 + signal.SIGKILL
    assert "not started again, as 1 times within 10 minutes is the limit" in output
    assert "Started HTTPService" in output, "the log's last lines"
    assert launcher.log_file.read_text(errors="replace").count("Started HTTPService") == 2
    assert launcher.stubs() == []


def test_a_server_that_was_stopped_from_elsewhere_is_not_started_again(foreground: Callable[..., Foreground]) -> None:
    launcher = foreground("--quiet")
    launcher.read_until("Ctrl-C stops it")
    os.kill(server_pid(launcher), signal.SIGTERM)
    assert "tritonserver was stopped from elsewhere" in launcher.rest()
    assert launcher.process.returncode == 0


def test_a_launcher_that_is_killed_takes_its_server_along(foreground: Callable[..., Foreground]) -> None:
    launcher = foreground()
    launcher.read_until("Ctrl-C stops it")
    regions = launcher.regions()
    launcher.process.kill()
    until(lambda: not launcher.stubs(), "the end of the server")
    until(lambda: not any((SHARED_MEMORY / region).exists() for region in regions), "the end of its shared memory")
