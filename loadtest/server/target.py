"""The server under test: where it is, and what can be seen of its processes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from loadtest.failures import BadInput
from tools.triton.api import TritonApi
from tools.triton.control_key import find_key

HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    http_port: int
    grpc: str
    """host:port"""
    metrics_url: str
    model: str = "flux"
    gateway_url: str | None = None
    control_key: str | None = field(default=None, repr=False)
    """For loading models, where the server wants one."""

    @property
    def http_url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def api(self) -> TritonApi:
        host = self.host.strip("[]")
        return TritonApi(host, self.http_port, self.control_key or find_key(host, self.http_port))

    @property
    def is_local(self) -> bool:
        """Whether the server runs on this machine, so that this machine's use is the server's."""
        try:
            found = socket.getaddrinfo(self.host.strip("[]"), self.http_port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        addresses = {str(address[0]) for *_, address in found}
        here = {of.address for interface in psutil.net_if_addrs().values() for of in interface}
        return bool(addresses & here)

    def processes(self) -> list[psutil.Process]:
        """The server and its models' processes; none where it is elsewhere, in a container or another user's."""
        if not self.is_local:
            return []
        server = _triton_at(self.http_port)
        if server is None:
            return []
        with contextlib.suppress(psutil.Error):
            return [server, *server.children(recursive=True)]
        return []

    def overriding(self, parameters: Iterable[str]) -> list[str]:
        """The FLUX_ variables of the server's that would go before these parameters, as far as they can be seen."""
        for process in self.processes()[:1]:
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                return [f"FLUX_{name.upper()}" for name in parameters if environment.get(f"FLUX_{name.upper()}")]
        return []


def parse_target(
    url: str,
    *,
    grpc: str | None = None,
    metrics_url: str | None = None,
    model: str = "flux",
    gateway_url: str | None = None,
    control_key: str | None = None,
) -> Target:
    """`url` is Triton's HTTP address, with or without http:// and port. Raises BadInput."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme != "http" or not parts.hostname or port == -1 or parts.path.strip("/"):
        raise BadInput(f"--url is {url!r}; must be Triton's HTTP address, such as http://localhost:{HTTP_PORT}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Target(
        host,
        port or HTTP_PORT,
        (grpc or f"{host}:{GRPC_PORT}").removeprefix("grpc://"),
        metrics_url or f"http://{host}:{METRICS_PORT}/metrics",
        model,
        gateway_url,
        control_key,
    )


def _triton_at(port: int) -> psutil.Process | None:
    """The server that listens there; none where a tunnel or a container's proxy does."""
    with contextlib.suppress(psutil.Error):  # some systems show the sockets of others to root only
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and connection.pid and address and address.port == port:
                process = psutil.Process(connection.pid)
                return process if process.name() == "tritonserver" else None
    return None
