"""The key that a server may want from whoever loads or unloads its models."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fluxclient.transport.address import Address

HEADER = "triton-control"


def find_control_key(address: Address) -> str | None:
    """That of the variable TRITON_CONTROL_KEY, or what `make serve` has written for a server on this machine."""
    if key := os.environ.get("TRITON_CONTROL_KEY"):
        return key
    if address.host in ("localhost", "127.0.0.1", "[::1]"):
        with suppress(OSError, RuntimeError):
            folder = os.environ.get("TRITON_CONTROL_KEY_FOLDER") or Path.home() / ".cache" / "flux-triton"
            return (Path(folder) / f"control-key-{address.port}").read_text().strip() or None
    return None


def control_headers(key: str | None) -> dict[str, str]:
    """For HTTP."""
    return {HEADER: key} if key else {}


def control_metadata(key: str | None) -> list[tuple[str, str]]:
    """For gRPC, where Triton puts a prefix of its own before the name."""
    return [(f"triton-grpc-protocol-{HEADER}", key)] if key else []
