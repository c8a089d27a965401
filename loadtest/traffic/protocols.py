"""The protocols that orders go over, and which model each of them reaches."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.failures import BadInput

PROTOCOLS = ("grpc-stream", "grpc-unary", "http-infer", "http-generate", "openai")
MODEL = "flux"
ANY_MODEL = ("grpc-stream", "http-generate")
"""The protocols that name the model. flux_unary hands on to flux, and a gateway has its own."""


def check_model(model: str, protocols: Sequence[str]) -> None:
    """Raises BadInput if one of the protocols would send its load to another model."""
    if model != MODEL and (fixed := [protocol for protocol in protocols if protocol not in ANY_MODEL]):
        raise BadInput(
            f"--model: is {model!r}; {fixed[0]} always reaches {MODEL}, others are for {' and '.join(ANY_MODEL)}"
        )
