"""What the routes of one gateway share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from fluxclient.aio import AsyncFluxClient
from fluxclient.gateway.config import GatewayConfig
from fluxclient.gateway.jobs import Jobs
from fluxclient.gateway.metrics import Metrics
from fluxclient.gateway.picture_store import PictureStore
from fluxclient.gateway.rate import Rate
from fluxclient.gateway.request_record import caller_of


@dataclass
class Gateway:
    """Belongs to one event loop."""

    config: GatewayConfig
    client: AsyncFluxClient
    metrics: Metrics
    rate: Rate
    files: PictureStore
    jobs: Jobs
    started_s: int
    """Unix time."""
    default_steps: int | None = None
    """Of the model, as the last stream showed them that left them to it."""


def gateway_of(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


def caller(request: Request) -> str:
    return caller_of(request.scope)


TheGateway = Annotated[Gateway, Depends(gateway_of)]
Caller = Annotated[str, Depends(caller)]
