"""TCP ports to listen on."""

from __future__ import annotations

import random
import socket

from tools.triton.errors import PortTaken, ServerFailed

# Below the range from which systems take the ports of outgoing connections, so that none of these takes one of ours.
FREE_PORTS = range(20000, 32000)


def choose_port(host: str, service: str, wanted: int, taken: set[int]) -> int:
    """`wanted` if nobody listens on it, or any free port but `taken` for 0. Raises PortTaken, which names `service`."""
    if wanted == 0:
        for port in random.sample(FREE_PORTS, 200):
            if port not in taken and _is_free(host, port):
                return port
        raise ServerFailed(f"found no free port between {FREE_PORTS.start} and {FREE_PORTS.stop}")
    if wanted in taken or not _is_free(host, wanted):
        raise PortTaken(
            f"port {wanted} on {host} is taken: choose another with --{service}-port (make serve "
            f"{service.upper()}_PORT=…), or 0 for any free one"
        )
    return wanted


def listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that only lingers is free
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise ServerFailed(f"port {port} needs more rights than this user has: choose one above 1023") from error
        except OSError:
            return False
        return True
