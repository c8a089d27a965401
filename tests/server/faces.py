"""Both clients over both protocols, for a server that a test has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.unit.client.fakes.faces import FACES, AsyncFace, Face, SyncFace
from tools.triton.server import TritonServer

PROTOCOLS = ("grpc", "http")


def url_of(server: TritonServer, protocol: str) -> str:
    return server.urls.grpc if protocol == "grpc" else server.urls.http


@dataclass(frozen=True)
class Made:
    kind: type[SyncFace] | type[AsyncFace]
    protocol: str

    def __call__(self, server: TritonServer, **settings: Any) -> Face:
        return self.kind(url_of(server, self.protocol), metrics_url=server.urls.metrics, **settings)

    def __str__(self) -> str:
        return f"{'sync' if self.kind is SyncFace else 'async'}-{self.protocol}"


EACH = [Made(kind, protocol) for kind in FACES for protocol in PROTOCOLS]
IDS = [str(made) for made in EACH]
