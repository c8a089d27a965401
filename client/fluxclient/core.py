"""What the sync and the async client have in common."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from fluxclient.errors import Cancelled, FluxError, InvalidArgument, ServerError
from fluxclient.inputs.request import Options, Request, build_request, seconds
from fluxclient.inputs.source_image import image_file
from fluxclient.result import Result
from fluxclient.transport.address import Address
from fluxclient.transport.control_key import find_control_key
from fluxclient.transport.interface import ModelConfig

DEFAULT_TIMEOUT_S = 120.0
DEFAULT_CONCURRENCY = 8
DEFAULT_RETRIES = 2
DEFAULT_SILENCE_S = 15.0
"""Three signs of life that the model sends every 5 s."""
ASK_TIMEOUT_S = 5.0
"""For what a server answers at once: health, statistics."""

Prompts = list[str] | tuple[str, ...]
"""Prompts that go in one request; a `str` is one prompt, not a sequence of them."""


@dataclass(frozen=True)
class Health:
    """What a server says of itself. True as a condition if requests can be sent."""

    live: bool
    """Somebody answers."""
    ready: bool
    """The server says that it is ready; Triton counts in every model that it was told to load, or lost."""
    model_ready: bool
    """The model is loaded."""
    detail: str = ""
    """Why not, where an error says so."""

    def __bool__(self) -> bool:
        return self.ready and self.model_ready


class BaseClient:
    """Address, defaults, and the making and reading of messages; how they travel is the subclasses'."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None,
        model: str,
        retries: int,
        silence: float | None,
        metrics_url: str | None,
        control_key: str | None,
    ) -> None:
        if retries < 0:
            raise InvalidArgument(f"is {retries}; must be 0 or more", field="retries")
        self.url = url
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self.silence = seconds("silence", silence)
        self._address = Address(url)
        self.metrics_url = metrics_url or self._address.metrics_url
        self._control_key = control_key
        self._closed = False

    def _request(self, prompt: str | Prompts, options: Options, *, progress: bool = False) -> Request:
        self._check_open()
        prompts = tuple(prompt) if isinstance(prompt, list | tuple) else (prompt,)
        given = cast(Mapping[str, object], options)
        return build_request(prompts, given, timeout_s=self.timeout, silence_s=self.silence, progress=progress)

    def _find_control_key(self) -> str | None:
        """Looked up each time: a server that is started again has another."""
        return self._control_key or find_control_key(self._address)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed")

    def _settle(self, results: list[Result] | None, request: Request) -> list[Result]:
        """The results, once the server has ended the stream; raises where it sent none."""
        if results is None and self._closed:
            raise self._gave_up(request)
        if results is None:
            problem = "the server ended the stream without a final answer"
            raise ServerError(problem, field="answer", request_id=request.id)
        return results

    def _gave_up(self, request: Request) -> FluxError:
        return Cancelled("the client was closed meanwhile", field="client", request_id=request.id)


def check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise InvalidArgument(f"is {concurrency}; must be at least 1", field="concurrency")


def for_many(options: Options) -> Options:
    """The options of many requests: their picture is read once, and never by two threads together."""
    if "image" in options:
        with suppress(InvalidArgument):  # each of the requests meets that error itself
            return {**options, "image": image_file(options["image"])}
    return options


def with_parameters(config: ModelConfig, parameters: Mapping[str, str]) -> ModelConfig:
    """A model's configuration with some of the engine's parameters replaced."""
    changed = {name: {"string_value": value} for name, value in parameters.items()}
    return {**config, "parameters": {**config.get("parameters", {}), **changed}}
