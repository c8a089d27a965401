"""A server's files in /dev/shm, which a process that is killed leaves behind: by the hundred megabytes.

Each server's regions bear a name of their own. Its owner file, one of them, stays locked as long as the launcher, the
server or one of its stubs lives, on this side of a container's wall or the other: only what nobody holds is abandoned.
Standard library only, Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
REGION = "triton_python_backend_shm_region"
OWNER = "owner"
LEAST_MB = 256


class SharedMemory:
    """What one server has in /dev/shm, from before its start until after its end."""

    def __init__(self) -> None:
        """Claims a name. Raises OSError where /dev/shm cannot be written."""
        while True:
            self.prefix = f"{REGION}_{secrets.token_hex(6)}_"
            owner = SHARED_MEMORY / f"{self.prefix}{OWNER}"
            self._owner = os.open(owner, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(self._owner, fcntl.LOCK_EX)
            if os.fstat(self._owner).st_nlink:
                return
            os.close(self._owner)  # somebody took it for abandoned before it was locked

    @property
    def option(self) -> str:
        """For tritonserver."""
        return f"--backend-config=python,shm-region-prefix-name={self.prefix}"

    @property
    def descriptor(self) -> int:
        """For the server to inherit: it holds the lock as well then."""
        return self._owner

    def belongs_to(self, server_pid: int) -> None:
        os.pwrite(self._owner, process_name(server_pid).encode(), 0)

    def remove(self) -> None:
        """Removes it all; the server and its stubs have ended."""
        remove_files(self.prefix, _server_of(self._owner))
        os.close(self._owner)


def size_problem() -> str:
    """What is said of a /dev/shm that some uploads fill, such as Docker's of 64 MB, or "" where it is large enough."""
    status = os.statvfs(SHARED_MEMORY)
    size_mb = status.f_blocks * status.f_frsize >> 20
    if size_mb >= LEAST_MB:
        return ""
    return (
        f"{SHARED_MEMORY} has {size_mb} MB, through which all pictures pass between Triton and its models: requests "
        "fail when it is full. Give it more: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm"
    )


def process_name(pid: int) -> str:
    """As in the name of the folder that our models make: containers may share /dev/shm, and have the same numbers."""
    return f"{os.stat('/proc/self/ns/pid').st_ino}-{pid}"


def remove_files(prefix: str, server: str) -> None:
    """Removes the regions of that name, and the folder of our models in the server with that `process_name`, if any."""
    for region in SHARED_MEMORY.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):
            region.unlink()
    if re.fullmatch(r"[0-9]+-[0-9]+", server):
        shutil.rmtree(SHARED_MEMORY / f"flux-triton-{server}", ignore_errors=True)


def remove_abandoned() -> None:
    """Removes what servers of this user's left that were killed together with their launchers.

    Anybody may write to /dev/shm: what another user has put there is not believed.
    """
    for owner in SHARED_MEMORY.glob(f"{REGION}_*_{OWNER}"):
        with contextlib.suppress(OSError):  # another user's, or held by the living
            handle = os.open(owner, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(handle)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_files(owner.name.removesuffix(OWNER), _server_of(handle))
            finally:
                os.close(handle)


def _server_of(owner: int) -> str:
    return os.pread(owner, 100, 0).decode(errors="replace")
