"""The processes of a server, with small programs in the place of tritonserver."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.triton import process, shared_memory
from tools.triton.process import ServerProcess
from tools.triton.shared_memory import SharedMemory

SLEEPING = "import time; print('begun', flush=True); time.sleep(60)"
WITH_A_WORKER = """
import subprocess, sys
worker = subprocess.Popen(["sleep", "60"])
print(worker.pid, flush=True)
sys.exit(3)
"""
SLOW_TO_STOP = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(0)))
print("begun", flush=True)
time.sleep(60)
"""


def start(program: str, log_file: Path, patience_s: float = 10.0) -> ServerProcess:
    """Once it has said something."""
    with log_file.open("wb") as log:
        server = ServerProcess([sys.executable, "-c", program], dict(os.environ), log, patience_s)
    deadline = time.monotonic() + 10
    while not log_file.read_text().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.01)
    return server


@pytest.mark.parametrize("what", ["owner file", "guard"])
def test_nothing_is_left_where_there_is_no_space_or_memory(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def fail(whose: ServerProcess | SharedMemory, *pid: int) -> None:
        started.append(whose.pid if isinstance(whose, ServerProcess) else pid[0])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    if what == "guard":
        monkeypatch.setattr(ServerProcess, "_watch_over", fail)
    else:
        monkeypatch.setattr(SharedMemory, "belongs_to", fail)
    with pytest.raises(OSError, match="No space left"):
        start(SLEEPING, tmp_path / "log")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
    assert not list((tmp_path / "shm").iterdir())


def test_the_end_takes_along_whatever_the_server_and_its_models_have_started(tmp_path: Path) -> None:
    server = start(WITH_A_WORKER, tmp_path / "log")
    worker = int((tmp_path / "log").read_text())
    os.kill(worker, 0)
    while server.poll() is None:
        time.sleep(0.01)
    assert server.end() == 3
    deadline = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(worker)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_without_stubs_has_all_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "AFTER_LAST_STUB_S", 0.1)
    server = start(SLOW_TO_STOP, tmp_path / "log")
    began = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - began >= 1


def test_a_server_that_ends_by_our_own_signal_has_ended_well_and_one_that_was_killed_has_not(tmp_path: Path) -> None:
    assert start(SLEEPING, tmp_path / "log").end() == 0
    assert start(SLOW_TO_STOP, tmp_path / "log", patience_s=0.1).end() == -signal.SIGKILL


IGNORING = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from tools.triton.signals import Signals
Signals(lambda: None)
import subprocess
print(subprocess.run(["sh", "-c", "exit 3"]).returncode)
"""


def test_how_a_child_ended_is_learned_also_under_a_parent_that_does_not_care() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORING], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
