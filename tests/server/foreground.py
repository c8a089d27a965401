"""The launcher as somebody runs it: `python -m tools.triton`, or a command that ends in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.triton.installation import PROJECT
from tools.triton.shared_memory import REGION
from tools.triton.stub import Stub, find_stubs

ANY_PORTS = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]


class Foreground:
    """`python -m tools.triton`, or a command that ends in it, as somebody runs it."""

    def __init__(self, repository: Path, command: list[str], log_file: Path) -> None:
        self.repository = repository
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.log_file = log_file
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"ended with {self.process.wait()} before {text!r}:\n{''.join(self.lines)}")

    def rest(self) -> str:
        """Waits for the end and gives the rest of the output."""
        output, _ = self.process.communicate(timeout=60)
        return output

    def stubs(self) -> list[Stub]:
        return [stub for stub in find_stubs() if stub.arguments[1].startswith(str(self.repository))]

    def regions(self) -> list[str]:
        """The names of its stubs' shared memory."""
        return [argument for stub in self.stubs() for argument in stub.arguments if argument.startswith(REGION)]


@contextmanager
def launchers(repository: Path, log_file: Path) -> Iterator[Callable[..., Foreground]]:
    """Something that starts launchers with further options; none of what it started is left at the end."""
    started = []

    def start(*options: str, make: bool = False) -> Foreground:
        all_options = [f"--model-repository={repository}", "--model=echo", f"--log-file={log_file}", *options]
        if make:
            prefix = f"VENV={sys.prefix}"
            ports = ["HTTP_PORT=0", "GRPC_PORT=0", "METRICS_PORT=0"]
            stamp = f"--old-file={sys.prefix}/.complete"  # the environment that runs this test is complete
            command = ["make", "serve", stamp, prefix, *ports, f"SERVE_OPTIONS={' '.join(all_options)}"]
        else:
            command = [sys.executable, "-m", "tools.triton", *ANY_PORTS, *all_options]
        started.append(Foreground(repository, command, log_file))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()
        for stub in each.stubs():
            stub.kill()
