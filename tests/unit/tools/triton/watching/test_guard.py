"""The guard ends a process group when its owner goes, and only then."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.triton.installation import PROJECT
from tools.triton.shared_memory import REGION, SHARED_MEMORY

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


@pytest.fixture
def region() -> Iterator[Path]:
    region = SHARED_MEMORY / f"{REGION}_{uuid.uuid4()}_x"
    region.touch()
    yield region
    region.unlink(missing_ok=True)


def watch(server: subprocess.Popen[bytes], region: Path, farewell: bytes) -> None:
    arguments = [str(server.pid), "0.5", region.name.removesuffix("x")]
    command = [sys.executable, "-m", "tools.triton.watching.guard", *arguments]
    subprocess.run(command, cwd=PROJECT, input=farewell, timeout=30, check=True)


def test_an_owner_that_is_gone(server: subprocess.Popen[bytes], region: Path) -> None:
    watch(server, region, b"")
    assert server.wait(timeout=5) in (-signal.SIGTERM, -signal.SIGKILL)
    assert not region.exists()


def test_an_owner_that_has_stopped_its_server(server: subprocess.Popen[bytes], region: Path) -> None:
    watch(server, region, b"done")
    time.sleep(0.2)
    assert server.poll() is None
    assert region.exists()
