"""Every error has an exit code, and it is the one that the help tells of."""

from __future__ import annotations

import pytest

from fluxclient import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    FluxError,
    InvalidArgument,
    NotFound,
    Overloaded,
    ServerError,
)
from fluxclient.cli.exit_codes import ExitCode, exit_code

CASES = [
    (InvalidArgument("x", field="height"), ExitCode.USAGE),
    (NotFound("x", field="lora"), ExitCode.USAGE),
    (NotFound("x", field="model"), ExitCode.NOT_READY),
    (ConnectionFailed("x"), ExitCode.NOT_READY),
    (ServerError("x", code="UNAVAILABLE"), ExitCode.NOT_READY),
    (DeadlineExceeded("x"), ExitCode.TOO_LATE),
    (Overloaded("x"), ExitCode.OVERLOADED),
    (Cancelled("x"), ExitCode.FAILED),
    (ServerError("x"), ExitCode.FAILED),
]


@pytest.mark.parametrize(("error", "code"), CASES)
def test_one_error(error: FluxError, code: ExitCode) -> None:
    assert exit_code([error]) == exit_code([error, error]) == code


def test_each_class_has_a_case() -> None:
    assert {type(error) for error, _ in CASES} == set(FluxError.__subclasses__())


def test_several() -> None:
    assert exit_code([]) is ExitCode.DONE
    assert exit_code([Overloaded("x"), DeadlineExceeded("x")]) is ExitCode.FAILED
