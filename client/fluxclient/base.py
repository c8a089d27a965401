"""What the sync and the async client have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fluxclient.errors import Cancelled, FluxError, InvalidArgument, ServerError
from fluxclient.request import Options, Request, build_request
from fluxclient.result import Progress, Result, read_answer
from fluxclient.wire import failure, read_response, target_of

DEFAULT_TIMEOUT_S = 120.0
DEFAULT_CONCURRENCY = 8
HEALTH_TIMEOUT_S = 5.0

Prompts = list[str] | tuple[str, ...]
"""Prompts that go in one request; a `str` is one prompt, not a sequence of them."""

Outcome = list[Result] | FluxError
"""What a request comes to: one result for each prompt, or an error."""


@dataclass(frozen=True)
class Health:
    """What a server says of itself. True as a condition if requests can be sent."""

    live: bool
    """Somebody answers."""
    ready: bool
    """The server takes requests."""
    model_ready: bool
    """The model is loaded."""
    detail: str = ""
    """Why not, where an error says so."""

    def __bool__(self) -> bool:
        return self.ready and self.model_ready


class BaseClient:
    """Address, defaults, and the making and reading of messages; how they travel is the subclasses'."""

    def __init__(self, url: str, *, timeout: float | None, model: str) -> None:
        self.url = url
        self.model = model
        self.timeout = timeout
        self._target = target_of(url)
        self._closed = False

    def _request(self, prompt: str | Prompts, options: Options, *, progress: bool = False) -> Request:
        self._check_open()
        prompts = tuple(prompt) if isinstance(prompt, list | tuple) else (prompt,)
        given = cast(Mapping[str, object], options)
        return build_request(prompts, given, timeout_s=self.timeout, progress=progress)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed")

    def _read(self, response: Any, request: Request) -> Progress | Outcome | None:
        """What a response says; None if it only marks the end."""
        try:
            outputs = read_response(response, request)
            return read_answer(outputs, request) if outputs else None
        except FluxError as error:
            return error

    def _settle(self, outcome: Outcome | None, request: Request) -> list[Result]:
        """The results, once the server has ended the stream; raises where it sent an error, or nothing."""
        if outcome is None and self._closed:
            raise self._gave_up(request)
        if outcome is None:
            problem = "the server ended the stream without a final answer"
            raise ServerError(problem, field="answer", request_id=request.id)
        if isinstance(outcome, FluxError):
            raise outcome
        return outcome

    def _failure(self, error: Exception, request: Request) -> FluxError:
        if self._closed:
            return self._gave_up(request)
        return failure(error, self._target, request_id=request.id, timeout_s=request.timeout_s)

    def _gave_up(self, request: Request) -> FluxError:
        return Cancelled("the client was closed meanwhile", field="client", request_id=request.id)


def check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise InvalidArgument(f"is {concurrency}; must be at least 1", field="concurrency")
