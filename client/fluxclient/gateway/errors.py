"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fluxclient.errors import FluxError, shown

INVALID_REQUEST = "invalid_request_error"
INVALID_JSON = "invalid_json"
INVALID_FORM = "invalid_form"
BODY_TOO_LARGE = "body_too_large"
BAD_BODY = "body: must be a JSON object in UTF-8, sent with Content-Type: application/json"
RETRY_AFTER_S = 2
MAX_MESSAGE_CHARACTERS = 500
CLIENT_LEFT = 499
"""What the log and the metrics call an answer that nobody waited for; no client sees it."""


@dataclass(frozen=True)
class Fault:
    """How HTTP tells of a code of fluxclient."""

    status: int
    type: str
    code: str
    retry: bool = False
    """Trying again later may help: the answer says when."""


FAULTS: Mapping[str, Fault] = {
    "INVALID_ARGUMENT": Fault(400, INVALID_REQUEST, "invalid_value"),
    "NOT_FOUND": Fault(404, INVALID_REQUEST, "not_found"),
    "OVERLOADED": Fault(429, "rate_limit_error", "overloaded", retry=True),
    "DEADLINE_EXCEEDED": Fault(504, "server_error", "deadline_exceeded"),
    "CANCELLED": Fault(503, "server_error", "cancelled", retry=True),
    "INTERNAL": Fault(500, "server_error", "internal_error"),
    "OUT_OF_MEMORY": Fault(500, "server_error", "out_of_memory"),
    "UNAVAILABLE": Fault(503, "server_error", "unavailable", retry=True),
    "CONNECTION_FAILED": Fault(503, "server_error", "connection_failed", retry=True),
}
"""Every code of fluxclient's errors."""

MODEL_NOT_READY = Fault(503, "server_error", "model_not_ready", retry=True)
"""NOT_FOUND of the model itself: the gateway's callers cannot have misnamed it."""


class ApiError(Exception):
    """An answer other than 200. `message` says what is wrong and what is allowed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = _cut(message, MAX_MESSAGE_CHARACTERS)
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, str | None]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def response(self) -> Response:
        # Escaped to ASCII: a message may quote what is no text in UTF-8.
        content = json.dumps({"error": self.body()})
        return Response(content, self.status, dict(self.headers), media_type="application/json")


class ClientLeft(Exception):
    """The caller closed the connection; there is nobody to answer."""


class BodyRefused(HTTPException):
    """An answer to a body that is still being read: of a kind that FastAPI lets pass then."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.status, error.message)
        self.error = error


def overloaded(message: str, param: str | None = None) -> ApiError:
    """The gateway itself has no room now."""
    fault = FAULTS["OVERLOADED"]
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ApiError(fault.status, message, code=fault.code, kind=fault.type, param=param, headers=headers)


def api_error(error: FluxError, names: Mapping[str, str] | None = None) -> ApiError:
    """What a caller is told of a failed request.

    `names` are what its API calls our options, where that differs: the key, and where need be behind `: ` a part of it.
    """
    fault = FAULTS.get(error.code, FAULTS["INTERNAL"])  # a newer server's code is an error of the server
    if error.code == "NOT_FOUND" and error.field == "model":
        fault = MODEL_NOT_READY
    elif error.code == "INTERNAL" and error.field == "device":
        fault = FAULTS["UNAVAILABLE"]  # it was lost, and comes back with the model
    text = error.text
    for ours, theirs in (names or {}).items():
        if "_" in ours:  # else it is a word of every day's language, too
            text = re.sub(rf"\b{ours}\b", theirs, text)
    param, _, part = (names or {}).get(error.field, error.field).partition(": ")
    subject = "".join(f"{word} " for word in (f"{param}:" if param else "", part) if word)
    request = f" [request {error.request_id}]" if error.request_id else ""
    message = _cut(subject + text, MAX_MESSAGE_CHARACTERS - len(request)) + request
    in_vain = error.field == "proxy"  # which ends what takes long, before a server that may still be drawing
    headers = {"Retry-After": str(RETRY_AFTER_S)} if fault.retry and not in_vain else {}
    if in_vain or fault.code == "deadline_exceeded":
        headers["x-should-retry"] = "false"  # OpenAI's client would send it again, for as long once more
    at_fault = param if fault.status < 429 else None
    return ApiError(fault.status, message, code=fault.code, kind=fault.type, param=at_fault, headers=headers)


def internal_error() -> ApiError:
    """For a fault of the gateway itself, whose cause only its log tells."""
    message = "the gateway failed; its log tells why, under this answer's x-request-id"
    return ApiError(500, message, code="internal_error", kind="server_error")


def install(app: FastAPI) -> None:
    """Makes every error of the application an answer in this form."""
    app.add_exception_handler(ApiError, _answer)
    app.add_exception_handler(FluxError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    app.add_exception_handler(ClientLeft, _nobody)


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, FluxError):
        error = api_error(error)
    elif isinstance(error, RequestValidationError):
        error = _of_validation(error)
    elif isinstance(error, HTTPException):
        error = _of_http(request, error)
    assert isinstance(error, ApiError), error
    request.state.notes.append(f"error={error.message!r}")
    return error.response()


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


def _of_http(request: Request, error: HTTPException) -> ApiError:
    path = request.url.path
    if isinstance(error, BodyRefused):
        return error.error
    if error.status_code == 404:
        message, code = f"there is nothing at {shown(path)}", "not_found"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message, code = f"{shown(request.method)} is not for {shown(path)}; it must be {allowed}", "method_not_allowed"
    elif error.status_code == 400:  # so FastAPI tells of a body that is neither JSON nor text
        message, code = BAD_BODY, INVALID_JSON
    else:
        message, code = error.detail, "invalid_request"
    return ApiError(error.status_code, message, code=code, headers=error.headers)


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first problem, but unknown keys before others: they may be what another key was meant to be."""
    problems: list[dict[str, Any]] = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    kind, path = problem["type"], problem["loc"][1:]
    param = ".".join(str(part) for part in path)
    if kind == "json_invalid":
        message = f"body: is not JSON: {problem['ctx']['error']} at character {path[0]}"
        return ApiError(400, message, code=INVALID_JSON)
    if not path:
        return ApiError(400, BAD_BODY, code=INVALID_JSON)
    if kind == "extra_forbidden":
        name = shown(param)
        return ApiError(400, f"{name}: there is no such parameter", code="unknown_parameter", param=param[:80])
    if kind == "missing":
        return ApiError(400, f"{param}: is missing", code="missing_required_parameter", param=param)
    said = problem["msg"]
    message = f"{param}: is {shown(problem['input'])}; {said[0].lower()}{said[1:]}"
    return ApiError(400, message, code="invalid_value", param=param)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
