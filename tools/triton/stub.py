"""The stub processes of Triton's Python backend, one for each model instance. Standard library only, Linux only."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.triton.shared_memory import REGION, SHARED_MEMORY

PROGRAM = "triton_python_backend_stub"


@dataclass(frozen=True)
class Stub:
    """A living stub. Its arguments name its instance and its shared memory, so they tell it from any later process."""

    pid: int
    arguments: tuple[str, ...]

    @property
    def alive(self) -> bool:
        return _arguments(self.pid) == self.arguments

    def terminate(self) -> None:
        """Tells its model that the server ends. A model that does not care about SIGTERM is not harmed."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once and removes its shared memory, which a killed stub or server leaves behind."""
        self._send(signal.SIGKILL)
        self.release()

    def release(self) -> None:
        """Removes the stub's shared memory, where nobody did."""
        for argument in self.arguments:
            if argument.startswith(REGION):
                (SHARED_MEMORY / argument).unlink(missing_ok=True)

    def _send(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def find_stubs(server_pid: int | None = None) -> list[Stub]:
    """All living stubs on this machine, or those of one server."""
    stubs = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            arguments = _arguments(int(entry))
            is_stub = bool(arguments) and os.path.basename(arguments[0]) == PROGRAM
            if is_stub and (server_pid is None or server_pid in _parent_and_group(int(entry))):
                stubs.append(Stub(int(entry), arguments))
    return stubs


def expected_instances(configuration: dict[str, Any]) -> Counter[str]:
    """How many instances each instance group of a loaded model has, by the group's name."""
    expected: Counter[str] = Counter()
    if configuration.get("backend") == "python":
        for group in configuration["instance_group"]:
            expected[group["name"]] += group["count"] * max(1, len(group.get("gpus") or []))
    return expected


def living_instances(stubs: Iterable[Stub], groups: Iterable[str]) -> dict[str, list[Stub]]:
    """The stubs of each instance group. Triton names an instance by its group, with numbers behind it."""
    stubs = list(stubs)
    found = {}
    for group in groups:
        name = re.compile(rf"{re.escape(group)}(_\d+)?(_(gpu|device)_?\d+)?")
        found[group] = [stub for stub in stubs if any(name.fullmatch(argument) for argument in stub.arguments[2:])]
    return found


def _arguments(pid: int) -> tuple[str, ...]:
    """The command line, or nothing for a process that is gone or only waits to be collected by its parent."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in line.rstrip(b"\0").split(b"\0")) if line else ()


def _parent_and_group(pid: int) -> tuple[int, ...]:
    """Its parent, and its process group, which still tells the server when that has died and left the stub behind."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ()
    return tuple(map(int, status.rpartition(")")[2].split()[1:3]))
