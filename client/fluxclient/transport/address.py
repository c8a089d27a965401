"""Where a server is."""

from __future__ import annotations

from urllib.parse import urlsplit

DEFAULT_PORTS = {"grpc": 8001, "http": 8000, "https": 443}
METRICS_PORT = 8002


class Address:
    """Where a server is, out of `grpc://host[:port]`, `http://host[:port]` or `https://host[:port]`."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for anything else."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is not an address: {error}") from None
        if (
            parts.scheme not in DEFAULT_PORTS
            or not parts.hostname
            or parts.query
            or parts.username
            or (parts.scheme == "grpc" and parts.path not in ("", "/"))
        ):
            raise ValueError(f"{url!r} is not an address like grpc://localhost:8001 or http://localhost:8000")
        self.scheme = parts.scheme
        self.host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.port = port or DEFAULT_PORTS[parts.scheme]
        self.path = parts.path.rstrip("/")  # Triton may stand behind a proxy, below a path

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where Triton's metrics are unless the operator has moved them."""
        return f"http://{self.host}:{METRICS_PORT}/metrics"
