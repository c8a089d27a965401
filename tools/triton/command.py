"""What tritonserver is told when it starts: the one list for `make serve`, the container, the lab and the tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.triton.control_key import restrictions
from tools.triton.errors import ServerFailed

OWNED = {
    "--model-repository": "from its own --model-repository or TRITON_MODEL_REPOSITORY",
    "--model-store": "from its own --model-repository or TRITON_MODEL_REPOSITORY",
    "--load-model": "from its own --model or TRITON_MODELS",
    "--exit-timeout-secs": "from its own --exit-timeout or TRITON_EXIT_TIMEOUT_S",
    "--model-control-mode": "always to explicit",
    "--allow-http": "always to true",
}
for _service in ("http", "grpc", "metrics"):
    OWNED[f"--{_service}-address"] = "from its own --host or TRITON_HOST"
    OWNED[f"--{_service}-port"] = f"from its own --{_service}-port or TRITON_{_service.upper()}_PORT"
"""The options of tritonserver that the launcher has to know of, and how it sets them."""


def check_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Further options for tritonserver. Raises ServerFailed if the launcher owns one of them."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in OWNED:
            raise ServerFailed(f"{name} of tritonserver is set by the launcher, {OWNED[name]}")
    return tuple(arguments)


def server_options(
    model_repository: Path,
    models: Sequence[str],
    host: str,
    ports: Mapping[str, int],
    exit_timeout_s: int,
    control_key: str,
) -> Iterator[str]:
    """The options of tritonserver. `ports` are by service: http, grpc, metrics."""
    yield f"--model-repository={model_repository}"
    yield "--model-control-mode=explicit"
    for model in models:
        yield f"--load-model={model}"
    for service, port in ports.items():
        yield f"--{service}-address={host}"
        yield f"--{service}-port={port}"
    yield "--allow-metrics=true"
    yield "--disable-auto-complete-config"
    yield f"--exit-timeout-secs={exit_timeout_s}"
    yield "--log-format=default"
    yield from restrictions(control_key)


def server_variables(exit_timeout_s: int) -> dict[str, str]:
    """Variables for the models, which those of the caller go before.

    A model that gets SIGTERM ends its requests after FLUX_DRAIN_S. The rest of the exit timeout is for the last step,
    the last answers and taking the model down: Triton that has lost its patience crashes.
    """
    return {"FLUX_DRAIN_S": str(max(1, exit_timeout_s * 3 // 4))}
