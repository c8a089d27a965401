"""What operators and their programs ask for: health and metrics."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from fluxclient.gateway.errors import RETRY_AFTER_S
from fluxclient.gateway.state import READ, TheGateway

router = APIRouter()


@router.api_route("/health", methods=READ)
async def health(gateway: TheGateway) -> JSONResponse:
    health = await gateway.client.health()
    body = {"status": "ok" if health else "unavailable", **asdict(health)}
    if health:
        return JSONResponse(body)
    return JSONResponse(body, 503, {"Retry-After": str(RETRY_AFTER_S)})


@router.api_route("/metrics", methods=READ)
async def metrics(gateway: TheGateway) -> Response:
    return Response(gateway.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
