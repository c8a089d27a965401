"""What can go wrong with a request, and what the caller is told.

FluxError
├── InvalidArgument    the request is wrong; sending it again is pointless
├── NotFound           it names something that is not here
├── Overloaded         no room now; try again later
├── DeadlineExceeded   its time ran out, in the queue or in flight
├── Cancelled          the caller left, or the model is being unloaded
├── OutOfMemory        the device has no memory for it, even alone
└── Internal           a fault of the server

ConfigError is not for callers: it stops the load of the model.
"""

from __future__ import annotations

from typing import ClassVar


class FluxError(Exception):
    """An error with a code that programs can read.

    `cause` is the input at fault, or the thing that failed; `problem` says what is wrong and what is allowed.
    """

    code: ClassVar[str]

    def __init__(self, cause: str, problem: str) -> None:
        super().__init__(f"{cause}: {problem}")
        self.cause = cause
        self.problem = problem

    def message(self, request_id: str) -> str:
        """The text that goes over the wire: `FLUX_<CODE>: <cause>: <problem> [request <id>]`."""
        return f"FLUX_{self.code}: {self.cause}: {self.problem} [request {request_id}]"


class InvalidArgument(FluxError):
    code = "INVALID_ARGUMENT"


class NotFound(FluxError):
    code = "NOT_FOUND"


class Overloaded(FluxError):
    code = "OVERLOADED"


class DeadlineExceeded(FluxError):
    code = "DEADLINE_EXCEEDED"


class Cancelled(FluxError):
    code = "CANCELLED"


class OutOfMemory(FluxError):
    code = "OUT_OF_MEMORY"


class Internal(FluxError):
    code = "INTERNAL"


ERRORS: tuple[type[FluxError], ...] = (
    InvalidArgument,
    NotFound,
    Overloaded,
    DeadlineExceeded,
    Cancelled,
    OutOfMemory,
    Internal,
)


class ConfigError(ValueError):
    """A parameter of config.pbtxt, or a FLUX_ variable, that the engine cannot serve with."""


MOST_QUOTED = 300
"""Characters of another program's error that are repeated."""


def in_short(error: BaseException) -> str:
    """What libraries say of a file, on one line: some of them say it with all of a file's names."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1] + "…"
