"""Exit codes: what a script learns from a run without reading a word."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from fluxclient.errors import ConnectionFailed, DeadlineExceeded, FluxError, InvalidArgument, NotFound, Overloaded


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_READY = 3
    TOO_LATE = 4
    OVERLOADED = 5
    INTERRUPTED = 130


EXIT_CODES = """[bold]Exit codes[/bold]

0 all done · 1 requests failed, or failed in several ways · 2 wrong usage or an invalid option · \
3 server not reached, or server or model not ready · 4 out of time · 5 server overloaded · 130 Ctrl-C
"""
"""For the end of each help."""


def exit_code(errors: Iterable[FluxError]) -> ExitCode:
    """Of a whole run: DONE without errors, the code that all errors have, FAILED if they differ."""
    codes = {_exit_code(error) for error in errors}
    if not codes:
        return ExitCode.DONE
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED


def is_not_ready(error: FluxError) -> bool:
    """Whether any other request would meet the same error now: there is no server, or no model on it."""
    return _exit_code(error) is ExitCode.NOT_READY


def _exit_code(error: FluxError) -> ExitCode:
    match error:
        case NotFound(field="model") | ConnectionFailed() | FluxError(code="UNAVAILABLE"):
            return ExitCode.NOT_READY
        case InvalidArgument() | NotFound():  # what else is not found is a LoRA that an option names
            return ExitCode.USAGE
        case DeadlineExceeded():
            return ExitCode.TOO_LATE
        case Overloaded():
            return ExitCode.OVERLOADED
        case _:
            return ExitCode.FAILED
