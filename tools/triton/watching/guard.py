"""Ends a server whose owner is gone: tritonserver and its stubs must not outlive a launcher that was killed.

Run as `python -m tools.triton.watching.guard PID GRACE_S PREFIX` with a pipe as standard input whose other end only the
owner holds. If the pipe ends without a byte, the process and its stubs get SIGTERM, after at most GRACE_S seconds all
that is left of its group SIGKILL, and what it has in /dev/shm, named PREFIX, is removed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

from tools.triton.shared_memory import process_name, remove_files
from tools.triton.stub import find_stubs


def end_server(pid: int, grace_s: float) -> None:
    """Ends the leader of a process group gracefully if it can, and then the group."""
    deadline = time.monotonic() + grace_s
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for stub in find_stubs(pid):
            stub.terminate()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            os.kill(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    if not sys.stdin.buffer.read(1):
        end_server(int(sys.argv[1]), float(sys.argv[2]))
        remove_files(sys.argv[3], process_name(int(sys.argv[1])))
