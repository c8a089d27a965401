"""Restores a model when the lab that changed it dies: `python -m loadtest.server.guard HOST PORT MODEL`.

Its standard input is a pipe that the lab holds: first a line with the control key, or null, and one with the
configuration to restore, and at the lab's end `done`. An end without that is a crash (`kill -9`, the system out of
memory), which no code of the lab could notice.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tools.triton.api import JSON, TritonApi
from tools.triton.installation import PROJECT

LOAD_TIMEOUT_S = 600.0


class Guard:
    """The process that waits, started and told to go by the lab."""

    def __init__(self, api: TritonApi, model: str, configuration: JSON) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.server.guard", api.host, str(api.port), model],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C at the terminal is for the lab
        )
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(api.control_key)}\n{json.dumps(configuration)}\n")
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """Nothing is left to restore."""
        self._process.communicate("done\n")


def main() -> None:
    host, port, model = sys.argv[1:]
    control_key = json.loads(sys.stdin.readline())
    configuration = json.loads(sys.stdin.readline())
    if sys.stdin.readline().strip() != "done":
        TritonApi(host, int(port), control_key).load(model, configuration, LOAD_TIMEOUT_S)


if __name__ == "__main__":
    main()
