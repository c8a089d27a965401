"""The processes of one server: tritonserver, its stubs, and a guard that ends them if their owner is killed."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tools.triton.installation import PROJECT
from tools.triton.shared_memory import SharedMemory
from tools.triton.stub import Stub, find_stubs

POLL_S = 0.05
# How long a server may go on after its last stub: nothing is left to drain then, but a model that lost a stub with
# requests in it is never released, and Triton 24.10 would wait for it until its exit timeout.
AFTER_LAST_STUB_S = 5.0


class ServerProcess:
    """A tritonserver that runs. `patience_s` is the longest that its end may take before it is killed.

    One thread ends it; the rest is for all. `end` must follow in any case: it clears up.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes], patience_s: float
    ) -> None:
        self._patience_s = patience_s
        self._memory = SharedMemory()
        try:
            self._server = subprocess.Popen(
                [*command, self._memory.option],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._memory.descriptor],
                start_new_session=True,  # Ctrl-C at a terminal must reach the launcher only, which then stops it
            )
            try:
                self._memory.belongs_to(self.pid)
                self._guard = self._watch_over()
            except BaseException:
                self._server.kill()
                self._server.wait()
                raise
        except BaseException:
            self._memory.remove()
            raise

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def children(self) -> set[int]:
        """The processes that are collected here."""
        return {self.pid, self._guard.pid}

    def stubs(self) -> list[Stub]:
        """The living stub processes of this server."""
        return find_stubs(self.pid)

    def poll(self) -> int | None:
        """The exit code, or None while it runs.

        As `Popen.poll`, which a KeyboardInterrupt can leave with its lock held: then it never learns of the end.
        """
        if self._server.returncode is not None:
            return self._server.returncode
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # NOWAIT: Popen collects it
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def kill(self) -> None:
        """Ends the server at once, also one that drains. `end` then only clears up."""
        self._server.kill()

    def end(self) -> int:
        """SIGTERM, time to drain, SIGKILL past it. Returns the exit code; nothing of it all remains, also in /dev/shm.

        The stubs are told as well: Triton goes on taking requests over gRPC, and tells a model only when all are done.
        """
        exit_code = self.poll()
        if exit_code is None:
            stubs = self.stubs()
            self._server.send_signal(signal.SIGTERM)
            for stub in stubs:
                stub.terminate()
            exit_code = self._drain(math.inf if not stubs else time.monotonic() + AFTER_LAST_STUB_S)
        with contextlib.suppress(ProcessLookupError):  # stubs, and what they have started: compilers outlive them
            os.killpg(self.pid, signal.SIGKILL)  # before `wait`, after which another group may have this number
        self._server.wait()
        self._memory.remove()
        with contextlib.suppress(BrokenPipeError):
            self._guard.communicate(b"done")
        return exit_code

    def _watch_over(self) -> subprocess.Popen[bytes]:
        """Another process, which ends the server when this one is gone."""
        command = [sys.executable, "-E", "-s", "-m", "tools.triton.watching.guard"]
        arguments = [str(self.pid), str(self._patience_s), self._memory.prefix]
        return subprocess.Popen([*command, *arguments], cwd=PROJECT, stdin=subprocess.PIPE, start_new_session=True)

    def _drain(self, idle_at: float) -> int:
        """Waits for a server that was told to end, kills it when nothing is left to wait for. Returns the exit code."""
        deadline = time.monotonic() + self._patience_s
        while (exit_code := self.poll()) is None and time.monotonic() < min(deadline, idle_at):
            time.sleep(POLL_S)
            if self.stubs():
                idle_at = time.monotonic() + AFTER_LAST_STUB_S
        if exit_code is not None:
            return 0 if exit_code == -signal.SIGTERM else exit_code  # one that has just begun has no handler yet
        drained = time.monotonic() < deadline
        self.kill()
        while (exit_code := self.poll()) is None:
            time.sleep(POLL_S)
        return 0 if drained else exit_code


def collect_orphans(ours: set[int]) -> None:
    """Collects the ended children of others that came to this process, as they do to the first of a container.

    `ours` are collected by whoever started them.
    """
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in ours:
            with contextlib.suppress(OSError):
                state, parent = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state == "Z" and int(parent) == os.getpid():
                    os.waitpid(int(entry), os.WNOHANG)
