"""From an address to a transport."""

from __future__ import annotations

from fluxclient.transport.address import Address
from fluxclient.transport.interface import Transport


def connect(address: Address, *, blocking: bool) -> Transport:
    """For threads, or for the running event loop. Connections are made when they are needed."""
    # Each module draws in its half of tritonclient, which takes a while.
    if address.scheme == "grpc":
        from fluxclient.transport.grpc import AsyncGrpcTransport, GrpcTransport

        return GrpcTransport(address) if blocking else AsyncGrpcTransport(address)
    from fluxclient.transport.http import AsyncHttpTransport, HttpTransport

    return HttpTransport(address) if blocking else AsyncHttpTransport(address)
