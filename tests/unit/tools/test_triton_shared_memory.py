"""What servers leave in /dev/shm goes when nobody holds it any more, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tools.triton.installation import PROJECT
from tools.triton.shared_memory import SHARED_MEMORY, SharedMemory, process_name, remove_abandoned

LAUNCHER = """
import subprocess, time
from tools.triton.shared_memory import SHARED_MEMORY, SharedMemory, process_name
memory = SharedMemory()
server = subprocess.Popen(["sleep", "60"], pass_fds=[memory.descriptor])
memory.belongs_to(server.pid)
(SHARED_MEMORY / f"{memory.prefix}region").touch()
(SHARED_MEMORY / f"flux-test-{process_name(server.pid)}").mkdir()
print(memory.prefix, server.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory()
    yield memory
    memory.remove()


def files(prefix: str) -> list[str]:
    return [file.name for file in SHARED_MEMORY.glob(f"{prefix}*")]


def test_each_server_has_a_name_of_its_own(memory: SharedMemory) -> None:
    other = SharedMemory()
    (SHARED_MEMORY / f"{other.prefix}region").touch()
    (SHARED_MEMORY / f"{memory.prefix}region").touch()
    other.remove()
    assert files(other.prefix) == []
    assert len(files(memory.prefix)) == 2
    assert memory.option == f"--backend-config=python,shm-region-prefix-name={memory.prefix}"


def test_abandoned_is_what_neither_launcher_nor_server_holds(memory: SharedMemory) -> None:
    command = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        prefix, _, server_pid = launcher.stdout.readline().strip().partition(" ")
        folder = SHARED_MEMORY / f"flux-test-{process_name(int(server_pid))}"
        remove_abandoned()
        assert len(files(prefix)) == 2
        launcher.kill()
        launcher.wait()
        remove_abandoned()
        assert len(files(prefix)) == 2 and folder.exists(), "the server lives"
        os.kill(int(server_pid), signal.SIGKILL)
        while files(prefix):
            remove_abandoned()
        assert not folder.exists()
    assert len(files(memory.prefix)) == 1
