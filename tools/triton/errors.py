"""What can go wrong with a Triton server of our own.

TritonNotFound        none can run on this machine
ServerFailed          it, or a model, did not start, answer or go on
└── PortTaken         a port that was asked for is in use
"""

from __future__ import annotations


class TritonNotFound(RuntimeError):
    """No Triton can run here. The message says why and what to do."""


class ServerFailed(RuntimeError):
    """The server or a model did not start, answer or go on. The message ends with the log's last lines."""

    def __init__(self, message: str, log_tail: str = "", exit_code: int | None = None) -> None:
        super().__init__(f"{message}\n--- the last lines of the server's log ---\n{log_tail}" if log_tail else message)
        self.log_tail = log_tail
        self.exit_code = exit_code  # of a server that ended by itself


class PortTaken(ServerFailed):
    """A port that was asked for is in use."""
