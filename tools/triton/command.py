"""What tritonserver is told when it starts: the one list for `make serve`, the container, the lab and the tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.triton.control_key import restrictions


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
