"""The guard ends a process group when its owner goes, and only then."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.triton import guard

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


@pytest.fixture(params=["sleep", "stubborn"])
def server(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    command = ["sleep", "60"] if request.param == "sleep" else [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        if request.param == "stubborn":
            assert process.stdout is not None
            process.stdout.readline()
        yield process
        process.kill()


def watch(server: subprocess.Popen[bytes], farewell: bytes) -> None:
    command = [sys.executable, "-I", str(Path(guard.__file__)), str(server.pid), "0.5"]
    subprocess.run(command, input=farewell, timeout=30, check=True)


def test_an_owner_that_is_gone(server: subprocess.Popen[bytes]) -> None:
    watch(server, b"")
    assert server.wait(timeout=5) in (-signal.SIGTERM, -signal.SIGKILL)


def test_an_owner_that_has_stopped_its_server(server: subprocess.Popen[bytes]) -> None:
    watch(server, b"done")
    time.sleep(0.2)
    assert server.poll() is None
