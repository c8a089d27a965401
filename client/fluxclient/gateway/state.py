"""What the routes of one gateway share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from fluxclient.async_client import AsyncFluxClient
from fluxclient.gateway.admission.rate import Rate
from fluxclient.gateway.config import GatewayConfig
from fluxclient.gateway.keeping.file_store import FileStore
from fluxclient.gateway.keeping.jobs import Jobs
from fluxclient.gateway.metrics import Metrics
from fluxclient.gateway.request_record import caller_of
from fluxclient.gateway.stopping import Stopping

READ = ["GET", "HEAD"]
"""The methods of a route that only tells: FastAPI does not add HEAD by itself."""


@dataclass
class Gateway:
    """Belongs to one event loop."""

    config: GatewayConfig
    client: AsyncFluxClient
    metrics: Metrics
    rate: Rate
    files: FileStore
    jobs: Jobs
    stopping: Stopping
    started_s: int
    """Unix time."""
    default_steps: int | None = None
    """Of the model, as the last stream showed them that left them to it."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names that callers may say."""
        return tuple(dict.fromkeys((self.config.model, *self.config.aliases)))

    def address(self, request: Request, route: str, **path: str) -> str:
        """Where callers reach a route of this gateway."""
        if self.config.public_url is None:
            return str(request.url_for(route, **path))
        return f"{self.config.public_url.rstrip('/')}{request.app.url_path_for(route, **path)}"

    async def stop(self) -> None:
        """Gives those who wait the time that the configuration leaves them, then tells them that it is over.

        Nobody can fetch a job any more, so they end at once.
        """
        await self.jobs.close()
        await asyncio.sleep(self.config.drain_s)
        self.stopping.end()


def gateway_of(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


def caller(request: Request) -> str:
    return caller_of(request.scope)


TheGateway = Annotated[Gateway, Depends(gateway_of)]
Caller = Annotated[str, Depends(caller)]
