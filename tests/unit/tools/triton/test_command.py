"""What the launcher takes for tritonserver, and what it decides itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.triton.command import OWNED, check_arguments, server_options
from tools.triton.errors import ServerFailed


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("--http-port", "--http-port or TRITON_HTTP_PORT"),
        ("--metrics-address", "--host or TRITON_HOST"),
        ("--model-repository", "--model-repository or TRITON_MODEL_REPOSITORY"),
        ("--exit-timeout-secs", "--exit-timeout or TRITON_EXIT_TIMEOUT_S"),
        ("--load-model", "--model or TRITON_MODELS"),
        ("--model-control-mode", "always to explicit"),
    ],
)
def test_what_the_launcher_decides_is_refused_with_the_way_to_say_it(option: str, advice: str) -> None:
    for given in ([f"{option}=1"], ["--log-verbose=1", option, "1"]):
        with pytest.raises(ServerFailed, match=f"{option} of tritonserver is set by the launcher, .*{advice}"):
            check_arguments(given)


def test_everything_that_the_launcher_has_options_for_is_its_own() -> None:
    ports = {"http": 1, "grpc": 2, "metrics": 3}
    ours = {option.partition("=")[0] for option in server_options(Path("m"), ["a"], "h", ports, 30, "key")}
    changeable = {"--allow-metrics", "--disable-auto-complete-config", "--log-format"}
    added = {"--http-restricted-api", "--grpc-restricted-protocol"}  # Triton takes several
    assert ours - changeable - added == OWNED.keys() - {"--model-store", "--allow-http"}


def test_all_else_goes_to_triton() -> None:
    others = ("--log-verbose=1", "--grpc-use-ssl=true", "--http-header-forward-pattern=.*", "--rate-limit", "off")
    assert check_arguments(others) == others
