"""What can go wrong, as the caller sees it.

FluxError
├── InvalidArgument    the request is wrong; sending it again is pointless
├── NotFound           it names a model or a LoRA that is not there
├── Overloaded         no room now; try again later
├── DeadlineExceeded   its time ran out, here or on the server
├── Cancelled          it was given up: by the server, or because this client was closed
├── ServerError        the server failed; `code` says how (OUT_OF_MEMORY, UNAVAILABLE, INTERNAL)
└── ConnectionFailed   nobody answers at the address, or the connection broke
"""

from __future__ import annotations

import re
from typing import ClassVar

_OURS = re.compile(r"FLUX_(?P<code>[A-Z_]+): (?P<field>[^:]+): (?P<text>.*?)(?: \[request (?P<id>[^\]]*)\])?\s*$", re.S)
_TRITON_ID = re.compile(r"^\[request id: [^\]]*\] ")

SHOWN_CHARACTERS = 60

# What Triton itself says of a request that never reached the model: (part of the message, code, field).
_TRITON: tuple[tuple[str, str, str], ...] = (
    ("Exceeds maximum queue size", "OVERLOADED", "queue"),
    ("Request timeout expired", "DEADLINE_EXCEEDED", "queue"),
    ("Request for unknown model", "NOT_FOUND", "model"),
    ("is not at ready state", "NOT_FOUND", "model"),
    ("is not ready", "NOT_FOUND", "model"),
    ("failed to poll from model repository", "NOT_FOUND", "model"),
    ("load failed for model", "INVALID_ARGUMENT", "model"),
    ("explicit model load / unload is not allowed", "UNAVAILABLE", "server"),
    ("is restricted, expecting header", "UNAVAILABLE", "control_key"),
    ("request batch-size must be", "INVALID_ARGUMENT", "prompt"),
    ("Server not ready", "UNAVAILABLE", "server"),
    ("Server is stopping", "UNAVAILABLE", "server"),
    ("scheduler for model has stopped", "UNAVAILABLE", "server"),
    ("Stub process", "UNAVAILABLE", "model"),
)

# What the status says when no message of the server explains it: (code, field). By gRPC's names and HTTP's numbers.
_STATUS: dict[str, tuple[str, str]] = {
    "UNAVAILABLE": ("CONNECTION_FAILED", "connection"),
    "DEADLINE_EXCEEDED": ("DEADLINE_EXCEEDED", "timeout"),
    "CANCELLED": ("CANCELLED", "connection"),
    "INVALID_ARGUMENT": ("INVALID_ARGUMENT", "request"),
    "NOT_FOUND": ("NOT_FOUND", "model"),
    "RESOURCE_EXHAUSTED": ("OVERLOADED", "server"),
    "400": ("INVALID_ARGUMENT", "request"),
    "404": ("NOT_FOUND", "model"),
    "429": ("OVERLOADED", "server"),
    "502": ("UNAVAILABLE", "server"),  # a proxy, of a server that it does not reach
    "503": ("UNAVAILABLE", "server"),
    "504": ("DEADLINE_EXCEEDED", "proxy"),  # which waits no longer for what the server may still be drawing
}


class FluxError(Exception):
    """An error with a code that programs can read.

    `field` is the option at fault, or the thing that failed; `text` says what is wrong; `request_id` finds the request
    in the server's log and is empty where no request was made.
    """

    codes: ClassVar[tuple[str, ...]] = ()
    """The codes that this class stands for; the first is the default."""

    def __init__(self, text: str, *, field: str = "", code: str = "", request_id: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.field = field
        self.code = code or (self.codes[0] if self.codes else "")
        self.request_id = request_id

    def __str__(self) -> str:
        request = f"[request {self.request_id}]" if self.request_id else ""
        subject = ": ".join(part for part in (self.code, self.field, self.text) if part)
        return f"{subject} {request}".rstrip()


class InvalidArgument(FluxError):
    """The request is wrong; `field` names the option."""

    codes = ("INVALID_ARGUMENT",)


class NotFound(FluxError):
    """The model (`field` is "model") or a LoRA is not there, or not loaded."""

    codes = ("NOT_FOUND",)


class Overloaded(FluxError):
    """The server has no room now. The request was not begun, so it may be sent again."""

    codes = ("OVERLOADED",)


class DeadlineExceeded(FluxError):
    """The time ran out: `field` is "timeout" if the client noticed, else what the server says."""

    codes = ("DEADLINE_EXCEEDED",)


class Cancelled(FluxError):
    """The request was given up: by the server, or because this client was closed meanwhile."""

    codes = ("CANCELLED",)


class ServerError(FluxError):
    """The server failed; `code` says how. UNAVAILABLE: it is stopping, or the process of the model has died."""

    codes: ClassVar[tuple[str, ...]] = ("INTERNAL", "OUT_OF_MEMORY", "UNAVAILABLE")


class ConnectionFailed(FluxError):
    """Nobody answers at the address, or the connection broke in the middle."""

    codes = ("CONNECTION_FAILED",)


_CLASSES: dict[str, type[FluxError]] = {
    code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        Overloaded,
        DeadlineExceeded,
        Cancelled,
        ServerError,
        ConnectionFailed,
    )
    for code in kind.codes
}


def error_from(message: str, *, request_id: str = "", status: str = "") -> FluxError:
    """The error that a message of the server stands for.

    `message` is the model's `FLUX_<CODE>: <field or cause>: <text> [request <id>]`, or what Triton, gRPC or
    a proxy says; `status` is the name of gRPC's status code, or HTTP's number, which counts only where the message
    itself says nothing known;
    `request_id` is what the client sent, for messages that name no request. Never raises.
    """
    if ours := _OURS.search(message):
        code, field, text = ours["code"], ours["field"], ours["text"]
        if code == "INTERNAL":  # the façade for several prompts says so of all that Triton says of the model
            code, field = _said_by_triton(text) or (code, field)
        kind = _CLASSES.get(code, ServerError)  # a code of a newer server is at least not lost
        return kind(text, field=field, code=code, request_id=ours["id"] or request_id)
    text = _TRITON_ID.sub("", message)
    code, field = _said_by_triton(text) or _STATUS.get(status, ("INTERNAL", "server"))
    return _CLASSES[code](text or status, field=field, code=code, request_id=request_id)


def _said_by_triton(text: str) -> tuple[str, str] | None:
    """Code and field of what Triton is known to say."""
    return next(((code, field) for part, code, field in _TRITON if part in text), None)


def shown(value: object) -> str:
    """What was sent, short enough for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
