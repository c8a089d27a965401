from __future__ import annotations

from collections.abc import Mapping

import pytest

from fluxengine.errors import InvalidArgument
from fluxengine.wire.inputs import INPUTS, STREAM_INPUTS
from fluxengine.wire.parameters import deadline, parse_parameters, refuse_misplaced

ARRIVAL_S = 100.0
HEADERS = (
    *("accept", "accept-encoding", "accept-language", "authorization", "connection", "content-length", "content-type"),
    *("cookie", "grpc-accept-encoding", "host", "origin", "priority", "range", "referer", "sec-fetch-mode", "te"),
    *("traceparent", "tracestate", "user-agent", "via", "x-forwarded-for", "x-request-id", "x-seed", "x-tenant"),
)


def refusal(parameters: Mapping[str, object], of_flux_alone: frozenset[str] = frozenset()) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        refuse_misplaced(parameters, INPUTS.keys(), of_flux_alone)
    return caught.value


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("spelt", [str.lower, str.title])
def test_headers_that_triton_hands_on_are_not_for_us(name: str, spelt: object) -> None:
    refuse_misplaced({spelt(name): "whatever"}, INPUTS.keys(), frozenset())  # type: ignore[operator]


@pytest.mark.parametrize(
    "name",
    ["timeout", "priority", "binary_data_output", "id", "triton_enable_empty_final_response", "sequence_id", "tenant"],
)
def test_parameters_of_triton_and_its_clients_are_not_for_us(name: str) -> None:
    refuse_misplaced({name: 0}, INPUTS.keys(), frozenset())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("steps", "num_inference_steps"),
        ("Steps", "num_inference_steps"),
        ("stepz", "num_inference_steps"),
        ("num_inference_step", "num_inference_steps"),
        ("promt", "prompt"),
        ("guidance", "guidance_scale"),
        ("hight", "height"),
        ("images", "num_images_per_prompt"),
        ("seeds", "seed"),
        ("deadline", "deadline_ms"),
        ("format", "output_format"),
        ("negative", "negative_prompt"),
    ],
)
def test_a_slip_is_an_error_that_says_what_was_meant(name: str, meant: str) -> None:
    error = refusal({"user-agent": "x", name: 4})
    assert error.cause == name
    assert error.problem == (
        f"is not an input of this model; did you mean {meant}? Inputs are {', '.join(sorted(INPUTS))}"
    )


def test_an_input_that_was_sent_as_a_parameter() -> None:
    assert refusal({"progress": True}).problem == "is a parameter of the request; must be sent as an input tensor"
    assert refusal({"seed": 7}, STREAM_INPUTS).problem == (
        "is a parameter of the request; must be sent as an input tensor"
    )
    assert refusal({"progress": True}, STREAM_INPUTS).problem == "is not an input of flux_unary; flux itself has it"
    assert "preview_interval" not in refusal({"steps": 3}, STREAM_INPUTS).problem


def test_what_looks_like_a_parameter_of_ours_is_none() -> None:
    error = refusal({"flux_cancel_token": "0" * 32})
    assert (error.cause, error.problem) == (
        "flux_cancel_token",
        "is not for callers, as any parameter that begins with flux_",
    )


def test_a_long_name_does_not_fill_the_message() -> None:
    assert refusal({"flux_" + "x" * 5000: 1}).cause == "flux_" + "x" * 75


@pytest.mark.parametrize(
    ("deadline_ms", "timeout_us", "timeout", "seconds"),
    [
        (0, 0, None, None),
        (0, 0, 0, None),
        (1500, 0, None, 1.5),
        (0, 2_000_000, None, 2.0),
        (0, 0, 2_500_000, 2.5),
        (0, 0, "2600000", 2.6),
        (1500, 2_000_000, None, 1.5),
        (2500, 2_000_000, None, 2.0),
        (1500, 0, 2_500_000, 1.5),
        (3500, 0, 2_500_000, 2.5),
        (0, 2_000_000, 2_500_000, 2.0),
        (3500, 2_000_000, 1_000_000, 1.0),
        (0, 2**63 - 1, 2**63 - 1, None),
        (1500, 2**63 - 1, None, 1.5),
        (0, 0, "9" * 400, None),
    ],
)
@pytest.mark.parametrize("default_ms", [0, 500])
def test_the_sooner_of_three_deadlines_or_the_default(
    deadline_ms: int, timeout_us: int, timeout: int | str | None, seconds: float | None, default_ms: int
) -> None:
    """Who says that there is to be no limit, by the largest number, gets none."""
    parameters: dict[str, object] = {} if timeout is None else {"timeout": timeout}
    none_sent = not (deadline_ms or timeout_us or timeout)
    expected = default_ms / 1e3 or None if none_sent else seconds
    found = deadline(deadline_ms, timeout_us, parameters, default_ms, ARRIVAL_S)
    assert found == (None if expected is None else pytest.approx(ARRIVAL_S + expected))


@pytest.mark.parametrize("timeout", ["soon", 1.5, -1, None, "x" * 5000])
def test_a_timeout_that_is_no_time(timeout: object) -> None:
    with pytest.raises(InvalidArgument, match="must be microseconds") as caught:
        deadline(0, 0, {"timeout": timeout}, 0, ARRIVAL_S)
    assert caught.value.cause == "timeout"
    assert len(caught.value.problem) < 200


def test_parameters_of_a_request() -> None:
    assert parse_parameters("") == {}
    assert parse_parameters('{"timeout": 5, "x": "y"}') == {"timeout": 5, "x": "y"}
    assert parse_parameters("[1]") == {}
