"""What servers leave in /dev/shm goes when nobody holds it any more, and not before."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.triton import shared_memory
from tools.triton.installation import PROJECT
from tools.triton.shared_memory import REGION, SHARED_MEMORY, SharedMemory, process_name, remove_abandoned, size_problem

LAUNCHER = """
import subprocess, time
from tools.triton.shared_memory import SHARED_MEMORY, SharedMemory, process_name
memory = SharedMemory()
server = subprocess.Popen(["sleep", "60"], pass_fds=[memory.descriptor])
memory.belongs_to(server.pid)
(SHARED_MEMORY / f"{memory.prefix}region").touch()
(SHARED_MEMORY / f"flux-triton-{process_name(server.pid)}").mkdir()
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
        folder = SHARED_MEMORY / f"flux-triton-{process_name(int(server_pid))}"
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of /dev/shm: the folder of a server's models, and beside it one that is not ours to remove."""
    (tmp_path / "precious").mkdir()
    folder = tmp_path / "shm"
    (folder / "flux-triton-12-34").mkdir(parents=True)
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", folder)
    return folder


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_what_a_killed_launcher_of_ours_left_goes(folder: Path) -> None:
    (folder / f"{REGION}_a_owner").write_text("12-34")
    (folder / f"{REGION}_a_1").touch()
    (folder / f"{REGION}_b_1").touch()
    remove_abandoned()
    assert names(folder) == {f"{REGION}_b_1"}


@pytest.mark.parametrize("server", ["/../../precious", "1-1/../../precious", "12-34/", "12-34\n", "*", "\udcff"])
def test_no_other_folder_goes_whatever_an_owner_file_says(folder: Path, server: str) -> None:
    (folder / "flux-triton-1-1").mkdir()
    (folder / f"{REGION}_a_owner").write_text(server, errors="surrogateescape")
    remove_abandoned()
    assert names(folder) == {"flux-triton-1-1", "flux-triton-12-34"}
    assert (folder.parent / "precious").exists()


def test_the_name_of_an_owner_file_is_no_pattern(folder: Path) -> None:
    (folder / f"{REGION}_[ab]_owner").touch()
    (folder / f"{REGION}_*_owner").touch()
    (folder / f"{REGION}_a_1").touch()
    remove_abandoned()
    assert names(folder) == {f"{REGION}_a_1", "flux-triton-12-34"}


def test_another_user_is_not_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{REGION}_a_owner").write_text("12-34")
    (folder / f"{REGION}_a_1").touch()
    before = names(folder)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_abandoned()
    assert names(folder) == before


def test_only_plain_files_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12-34")
    (folder / f"{REGION}_a_owner").symlink_to(tmp_path / "file")
    os.mkfifo(folder / f"{REGION}_b_owner")
    (folder / f"{REGION}_c_owner").mkdir()
    before = names(folder)
    remove_abandoned()
    assert names(folder) == before


def test_a_name_that_was_taken_for_abandoned_at_once_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    locked: list[int] = []

    def come_second(handle: int, how: int) -> None:
        if not locked:
            (owner,) = folder.glob(f"{REGION}_*")
            owner.unlink()
        locked.append(handle)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", come_second)
    memory = SharedMemory()
    assert len(locked) == 2
    assert (folder / f"{memory.prefix}owner").exists()
    memory.remove()
    assert names(folder) == {"flux-triton-12-34"}


@pytest.mark.parametrize(("size_mb", "said"), [(64, "has 64 MB"), (255, "has 255 MB"), (256, "")])
def test_a_small_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch, size_mb: int, said: str) -> None:
    status = os.statvfs_result((4096, 4096, size_mb * 256, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    problem = size_problem()
    assert said in problem and bool(problem) == bool(said)
    assert ("--shm-size" in problem) == bool(said)
