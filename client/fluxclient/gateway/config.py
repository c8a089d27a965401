"""What a gateway is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import limits


@dataclass(frozen=True)
class GatewayConfig:
    """Settings of one gateway. Raises ValueError for a rate that cannot be read."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one."""
    url: str = "grpc://localhost:8001"
    """Of the Triton server, as FluxClient takes it."""
    metrics_url: str | None = None
    """Of its metrics, for the page; None: on port 8002 of the same host."""
    model: str = "flux"
    """The only model that callers may name."""
    keys: Path | None = None
    """File of API keys, one a line: `key` or `name:key`. FLUXCLIENT_GATEWAY_KEYS adds to them. None at all: anybody
    may call."""
    rate: str | None = None
    """Most drawing requests of each key, or of each address where there are no keys: "60/minute"."""
    timeout_s: float | None = 120.0
    """For one picture request as a whole, retries included."""
    retries: int = 8
    """With their pauses enough for the restart of a server."""
    max_body_bytes: int = 1024 * 1024
    max_image_bytes: int = 20 * 1024 * 1024
    """Of the file that an edit begins with, which comes on top of the rest of the body."""
    max_jobs: int = 256
    """Jobs that are kept, finished ones included."""
    max_files_bytes: int = 256 * 1024 * 1024
    """Pictures kept for response_format=url, together."""
    keep_s: float = 3600.0
    """How long files, and finished jobs, can be fetched."""
    stop_within_s: int = 30
    """What is in flight when the gateway is stopped may go on for so long."""

    def __post_init__(self) -> None:
        if self.rate is None:
            return
        try:
            limits.parse(self.rate)
        except ValueError:
            problem = f"rate: is {self.rate!r}; must be like 60/minute or 1000 per 2 hours"
            raise ValueError(problem) from None
