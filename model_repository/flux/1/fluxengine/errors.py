"""What can go wrong with a request, and what the caller is told.

FluxError
├── InvalidArgument    the request is wrong; sending it again is pointless
├── NotFound           it names something that is not here
├── Overloaded         no room now; try again later
├── Unavailable        the server is stopping, or the model is not loaded; send it to another, or later
├── DeadlineExceeded   its time ran out, in the queue or in flight
├── Cancelled          the caller left, or the model is being unloaded
├── OutOfMemory        the device has no memory for it, even alone
└── Internal           a fault of the server

ConfigError is not for callers: it stops the load of the model.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE = 500
"""Characters. More than some KiB of it is another error to gRPC, and a line in a log for each request."""

_MIN_TEXT = 200
"""Characters of a message that no request id is too long for."""


def shorten(text: str, most: int) -> str:
    """At most so many characters of it: of a longer one, the beginning and the end."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


class FluxError(Exception):
    """An error with a code that programs can read.

    `cause` is the input at fault, or the thing that failed; `problem` says what is wrong and what is allowed. Both are
    shortened where they are long.
    """

    code: ClassVar[str]

    def __init__(self, cause: str, problem: str) -> None:
        self.cause = shorten(cause, 80)
        self.problem = shorten(problem, MAX_MESSAGE - len(f"{self.cause}: "))
        super().__init__(f"{self.cause}: {self.problem}")

    def message(self, request_id: str) -> str:
        """The text that goes over the wire: `FLUX_<CODE>: <cause>: <problem> [request <id>]`.

        At most 500 characters; of the id, which is the caller's, none is left out.
        """
        of_request = f" [request {request_id}]"
        text = f"FLUX_{self.code}: {self.cause}: {self.problem}"
        return shorten(text, max(MAX_MESSAGE - len(of_request), _MIN_TEXT)) + of_request


class InvalidArgument(FluxError):
    code = "INVALID_ARGUMENT"


class NotFound(FluxError):
    code = "NOT_FOUND"


class Overloaded(FluxError):
    code = "OVERLOADED"


class Unavailable(FluxError):
    code = "UNAVAILABLE"


class DeadlineExceeded(FluxError):
    code = "DEADLINE_EXCEEDED"


class Cancelled(FluxError):
    code = "CANCELLED"


class OutOfMemory(FluxError):
    code = "OUT_OF_MEMORY"


class Internal(FluxError):
    code = "INTERNAL"


ERRORS: tuple[type[FluxError], ...] = tuple(FluxError.__subclasses__())


class ConfigError(ValueError):
    """A parameter of config.pbtxt, or a FLUX_ variable, that the engine cannot serve with."""


MOST_QUOTED = 300
"""Characters of another program's error that are repeated."""


def in_short(error: BaseException) -> str:
    """What libraries say of a file, on one line: some of them say it with all of a file's names."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MOST_QUOTED else text[: MOST_QUOTED - 1] + "…"
