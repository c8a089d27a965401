"""The container's entry point and health check with the Triton of this machine in place of the image's."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.echo import make_repository
from tools.triton.installation import PROJECT, find_triton
from tools.triton.ports import choose_port
from tools.triton.stub import find_stubs


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of the container, with what this machine's Triton needs."""
    triton = find_triton()
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join([str(triton.executable), *triton.arguments])} "$@"\n')
    program.chmod(0o755)
    ports: list[int] = []
    for service in ("http", "grpc", "metrics"):
        ports.append(choose_port("0.0.0.0", service, 0, set(ports)))
    return triton.environment(
        {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "TRITON_MODEL_REPOSITORY": str(make_repository(tmp_path / "models")),
            "TRITON_MODELS": "echo",
            **{f"TRITON_{name}_PORT": str(port) for name, port in zip(("HTTP", "GRPC", "METRICS"), ports, strict=True)},
            "TRITON_CONTROL_KEY": "secret",
        }
    )


@pytest.fixture
def container(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process that the container would start."""
    command = [str(PROJECT / "deploy" / "container" / "entrypoint.sh"), "--http-address=127.0.0.1"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        yield process
        stubs = find_stubs(process.pid)
        process.kill()
        for stub in stubs:
            stub.kill()


def check_health(container: subprocess.Popen[bytes], environment: dict[str, str]) -> tuple[int, str]:
    """What the health check's command says, of this server only."""
    options = ["--port", environment["TRITON_HTTP_PORT"], "--server-pid", str(container.pid), "echo"]
    command = [sys.executable, "-S", "-m", "tools.triton.health", *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    return done.returncode, done.stdout.strip()


def test_starts_well_notices_a_dead_stub_and_stops(
    container: subprocess.Popen[bytes], environment: dict[str, str], tmp_path: Path
) -> None:
    deadline = time.monotonic() + 60
    while check_health(container, environment) != (0, "well: echo"):
        assert container.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text(errors="replace")
        time.sleep(0.1)
    os.kill(find_stubs(container.pid)[0].pid, signal.SIGKILL)
    while (health := check_health(container, environment)) == (0, "well: echo"):
        assert time.monotonic() < deadline
    assert health == (1, "model echo: 1 of 2 instances have a living stub")
    container.send_signal(signal.SIGTERM)
    assert container.wait(timeout=60) == 0
