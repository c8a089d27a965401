from __future__ import annotations

import pickle

import pytest

import fluxclient
from fluxclient import (
    ConnectionFailed,
    DeadlineExceeded,
    FluxError,
    InvalidArgument,
    NotFound,
    Overloaded,
    ServerError,
)
from fluxclient.errors import error_from
from fluxengine import errors as engine_errors


@pytest.mark.parametrize("kind", engine_errors.ERRORS, ids=lambda kind: kind.code)
def test_every_error_of_the_engine_arrives_as_its_class(kind: type[engine_errors.FluxError]) -> None:
    error = error_from(kind("height", "is 7; must be a multiple of 16").message("r-1"))

    assert type(error) is getattr(fluxclient, kind.__name__, ServerError)
    assert error.code == kind.code
    assert error.code in type(error).codes, "a code of the server that no class of the client stands for"
    assert (error.field, error.text, error.request_id) == ("height", "is 7; must be a multiple of 16", "r-1")


@pytest.mark.parametrize(
    ("message", "field", "text", "request_id"),
    [
        ("FLUX_INVALID_ARGUMENT: prompt: is missing [request ]", "prompt", "is missing", ""),
        ("FLUX_INVALID_ARGUMENT: prompt: holds 'a: b [c]' [request 7]", "prompt", "holds 'a: b [c]'", "7"),
        ("FLUX_INVALID_ARGUMENT: lora: two\nlines [request 7]\n", "lora", "two\nlines", "7"),
        ("in model 'flux', message: FLUX_INVALID_ARGUMENT: seed: is -1 [request 7]", "seed", "is -1", "7"),
        ("FLUX_INVALID_ARGUMENT: seed: is -1", "seed", "is -1", "sent"),
    ],
)
def test_message_is_taken_apart(message: str, field: str, text: str, request_id: str) -> None:
    error = error_from(message, request_id="sent")

    assert type(error) is InvalidArgument
    assert (error.field, error.text) == (field, text)
    assert error.request_id == (request_id or "sent")


def test_unknown_code_is_a_server_error_that_keeps_it() -> None:
    error = error_from("FLUX_OUT_OF_PAPER: tray: is empty [request 7]")

    assert type(error) is ServerError
    assert (error.code, error.field) == ("OUT_OF_PAPER", "tray")


@pytest.mark.parametrize(
    ("message", "kind", "code", "field"),
    [
        ("Exceeds maximum queue size", Overloaded, "OVERLOADED", "queue"),
        ("[request id: 7] Exceeds maximum queue size", Overloaded, "OVERLOADED", "queue"),
        ("Request timeout expired", DeadlineExceeded, "DEADLINE_EXCEEDED", "queue"),
        ("Request for unknown model: 'flux' is not found", NotFound, "NOT_FOUND", "model"),
        ("Request for unknown model: 'flux' has no available versions", NotFound, "NOT_FOUND", "model"),
        ("Request for unknown model: 'flux' version 1 is not at ready state", NotFound, "NOT_FOUND", "model"),
        ("[request id: 7] inference request batch-size must be <= 8 for 'flux'", InvalidArgument, None, "prompt"),
        ("failed to load 'flux', failed to poll from model repository", NotFound, "NOT_FOUND", "model"),
        ("load failed for model 'flux': version 1 is at UNAVAILABLE state: max_in_…", InvalidArgument, None, "model"),
        ("explicit model load / unload is not allowed if polling is enabled", ServerError, "UNAVAILABLE", "server"),
        ("Server not ready", ServerError, "UNAVAILABLE", "server"),
        ("Server is stopping, scheduler for model has stopped accepting", ServerError, "UNAVAILABLE", "server"),
        ("Stub process 'flux_0_0' is not healthy.", ServerError, "UNAVAILABLE", "model"),
        ("something that nobody has seen before", ServerError, "INTERNAL", "server"),
    ],
)
def test_what_triton_says_itself(message: str, kind: type[FluxError], code: str | None, field: str) -> None:
    error = error_from(message, request_id="sent")

    assert type(error) is kind
    assert error.code == (code or kind.codes[0])
    assert (error.field, error.request_id) == (field, "sent")
    assert error.text == message.removeprefix("[request id: 7] ")


@pytest.mark.parametrize(
    ("text", "kind", "code", "field"),
    [
        ("Failed for execute the inference request. Model 'flux' is not ready.", NotFound, "NOT_FOUND", "model"),
        ("Stub process 'flux_0_0' is not healthy.", ServerError, "UNAVAILABLE", "model"),
        ("something that nobody has seen before", ServerError, "INTERNAL", "flux"),
    ],
)
def test_what_the_facade_says_of_the_model(text: str, kind: type[FluxError], code: str, field: str) -> None:
    error = error_from(f"FLUX_INTERNAL: flux: {text} [request 7]")

    assert type(error) is kind
    assert (error.code, error.field, error.text, error.request_id) == (code, field, text, "7")


def test_message_of_the_server_counts_more_than_the_status() -> None:
    assert type(error_from("Exceeds maximum queue size", status="UNAVAILABLE")) is Overloaded
    assert type(error_from("failed to connect", status="UNAVAILABLE")) is ConnectionFailed
    assert type(error_from("", status="UNIMPLEMENTED")) is ServerError
    assert type(error_from("Exceeds maximum queue size", status="400")) is Overloaded
    assert error_from("<html>", status="503").code == "UNAVAILABLE"
    assert error_from("<html>", status="418").code == "INTERNAL"


@pytest.mark.parametrize(
    ("message", "status", "kind", "field"),
    [
        ("<html>", "408", ConnectionFailed, "proxy"),
        ("<html>", "504", ConnectionFailed, "proxy"),
        ("<html>", "413", InvalidArgument, "request"),
        ("Received http2 header with status: 504", "UNAVAILABLE", ConnectionFailed, "proxy"),
        ("Received http2 header with status: 408", "UNKNOWN", ConnectionFailed, "proxy"),
        ("Received http2 header with status: 413", "UNKNOWN", InvalidArgument, "request"),
        ("Received http2 header with status: 503", "UNAVAILABLE", ServerError, "server"),
        ("upstream request timeout", "UNAVAILABLE", ConnectionFailed, "proxy"),
        ("upstream request timeout", "DEADLINE_EXCEEDED", ConnectionFailed, "proxy"),
        ("stream timeout", "UNAVAILABLE", ConnectionFailed, "proxy"),
        ("received trailing metadata size exceeds hard limit", "RESOURCE_EXHAUSTED", ServerError, "server"),
        ("Received message larger than max (5 vs. 4)", "RESOURCE_EXHAUSTED", InvalidArgument, "request"),
        ("no room", "RESOURCE_EXHAUSTED", Overloaded, "server"),
        ("FLUX_UNAVAILABLE: flux: is not loaded", "UNAVAILABLE", ServerError, "flux"),
    ],
)
def test_what_grpc_and_proxies_say(message: str, status: str, kind: type[FluxError], field: str) -> None:
    error = error_from(message, status=status)

    assert type(error) is kind
    assert error.field == field


def test_text_for_people() -> None:
    error = InvalidArgument("is 7; must be a multiple of 16", field="height", request_id="r-1")

    assert str(error) == "INVALID_ARGUMENT: height: is 7; must be a multiple of 16 [request r-1]"
    assert str(ServerError("broke", code="OUT_OF_MEMORY")) == "OUT_OF_MEMORY: broke"


def test_errors_pass_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ServerError("broke", field="gpu", code="OUT_OF_MEMORY", request_id="7")))

    assert type(error) is ServerError
    assert (error.text, error.field, error.code, error.request_id) == ("broke", "gpu", "OUT_OF_MEMORY", "7")


def test_one_code_belongs_to_one_class() -> None:
    codes = [code for kind in FluxError.__subclasses__() for code in kind.codes]

    assert len(codes) == len(set(codes))
    assert {kind.__name__ for kind in FluxError.__subclasses__()} <= set(fluxclient.__all__)
