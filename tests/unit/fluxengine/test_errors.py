from __future__ import annotations

import pytest

from fluxengine import errors
from fluxengine.errors import ERRORS, ConfigError, FluxError, InvalidArgument, shorten


def test_the_message_names_code_cause_problem_and_request() -> None:
    error = InvalidArgument("height", "is 65; must be a multiple of 16 from 64 to 2048")
    assert error.message("r-1") == (
        "FLUX_INVALID_ARGUMENT: height: is 65; must be a multiple of 16 from 64 to 2048 [request r-1]"
    )
    assert str(error) == "height: is 65; must be a multiple of 16 from 64 to 2048"


def test_the_codes_are_those_of_the_contract() -> None:
    assert [error.code for error in ERRORS] == [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OVERLOADED",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "OUT_OF_MEMORY",
        "INTERNAL",
    ]


def test_every_error_of_the_module_is_listed() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FluxError)}
    assert defined - {FluxError} == set(ERRORS)
    assert all(error.__bases__ == (FluxError,) for error in ERRORS)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_cause_and_problem_can_be_read(kind: type[FluxError]) -> None:
    error = kind("queue", "is full")
    assert (error.cause, error.problem) == ("queue", "is full")


@pytest.mark.parametrize("request_id", ["", "r-1", "6" * 36, "i" * 280, "i" * 3000])
@pytest.mark.parametrize(
    ("cause", "problem"), [("lora", "x" * 50_000), ("x" * 50_000, "is no input"), ("a", "b" * 496)]
)
def test_a_long_text_is_shortened_and_the_request_is_not(cause: str, problem: str, request_id: str) -> None:
    error = InvalidArgument(cause, problem)
    assert len(str(error)) <= 500
    message = error.message(request_id)
    assert message.startswith(f"FLUX_INVALID_ARGUMENT: {cause[:4]}")
    assert message.endswith(f"{problem[-5:]} [request {request_id}]"), "what is allowed stands at the end"
    assert len(message) <= max(500, 211 + len(request_id))


def test_short_texts_stay_as_they_are() -> None:
    assert [shorten("abcdefgh", most) for most in (8, 7, 4)] == ["abcdefgh", "abcd…gh", "ab…h"]


def test_a_bad_configuration_is_no_answer_to_a_caller() -> None:
    assert not issubclass(ConfigError, FluxError)
