"""The gateway as an ASGI application."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope

from fluxclient.async_client import AsyncFluxClient
from fluxclient.gateway import errors, operator_routes, replaced_routes
from fluxclient.gateway.admission.body_limit import BodyLimit
from fluxclient.gateway.admission.keys import Access, read_keys
from fluxclient.gateway.admission.rate import Rate
from fluxclient.gateway.config import GatewayConfig
from fluxclient.gateway.keeping.file_store import FileStore
from fluxclient.gateway.keeping.jobs import Jobs
from fluxclient.gateway.metrics import Metrics
from fluxclient.gateway.openai import routes as openai_routes
from fluxclient.gateway.openai.edit_request import EDITS_PATH, max_image_share
from fluxclient.gateway.page import routes as page_routes
from fluxclient.gateway.page.server_state import PageState
from fluxclient.gateway.request_record import REQUEST_ID, RequestRecord
from fluxclient.gateway.state import Gateway
from fluxclient.gateway.stopping import Stopping


def create_app(config: GatewayConfig) -> FastAPI:
    """Raises ValueError and OSError for an address, or a file of keys, that cannot be used."""
    client = AsyncFluxClient(
        config.url,
        timeout=config.timeout_s,
        model=config.model,
        retries=config.retries,
        metrics_url=config.metrics_url,
    )
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:
            app.state.page_state = PageState(client)
            app.state.gateway = gateway = Gateway(
                config,
                client,
                metrics,
                Rate(config.rate),
                FileStore(config.max_files_bytes, config.keep_s),
                Jobs(config.max_jobs, config.max_jobs_bytes, config.keep_s, metrics.images.inc),
                Stopping(),
                started_s=int(time.time()),
            )
            yield
            await gateway.jobs.close()

    # No generated documentation: its page would load scripts from elsewhere.
    app = FastAPI(title="FLUX gateway", lifespan=lifespan, openapi_url=None)
    errors.install(app)
    for part in (openai_routes, replaced_routes, operator_routes, page_routes):
        app.include_router(part.router)
    # The last one added is the first to see a request.
    app.add_middleware(
        BodyLimit, max_bytes=partial(max_body_bytes, config), max_bytes_together=config.max_uploads_bytes
    )
    app.add_middleware(Access, keys=read_keys(config.keys, os.environ))
    app.add_middleware(RequestRecord, metrics=metrics)
    if config.allow_origins:  # around all others, as a browser asks first without a key, and shall read any error
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allow_origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=(REQUEST_ID, "retry-after", "x-should-retry"),
        )
    return app


def max_body_bytes(config: GatewayConfig, scope: Scope) -> int:
    """Of this request."""
    picture = max_image_share(Headers(scope=scope), config.max_image_bytes) if scope["path"] == EDITS_PATH else 0
    return config.max_body_bytes + picture
