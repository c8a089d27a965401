"""The gateway as a process."""

from __future__ import annotations

import asyncio
import logging.config
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from fluxclient.gateway.app import create_app
from fluxclient.gateway.config import GatewayConfig


def _is_no_upgrade(record: logging.LogRecord) -> bool:
    """Java's clients offer HTTP/2 with every request: uvicorn warns each time, and recommends a WebSocket library."""
    return not record.getMessage().startswith(("Unsupported upgrade request", "No supported WebSocket library"))


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "filters": {"upgrades": {"()": lambda: _is_no_upgrade}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["upgrades"]}},
    "loggers": {name: {"handlers": ["stderr"], "level": "INFO"} for name in ("uvicorn", "fluxclient.gateway")},
}


def serve(config: GatewayConfig) -> None:
    """Serves until SIGTERM or SIGINT, answers what is in flight, and returns.

    Exits with code 2 for a configuration that cannot be used, and with uvicorn's code where it cannot listen.
    """
    logging.config.dictConfig(LOGGING)
    try:
        app = create_app(config)
    except (ValueError, OSError) as error:
        print(f"fluxclient gateway: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    server = GatewayServer(config, app)
    # uvicorn raises the signal again once it has stopped, which shall be no death of the process but its end.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


class GatewayServer(uvicorn.Server):
    """Tells those who still wait at its end that it is one, rather than closing their connections."""

    def __init__(self, config: GatewayConfig, app: FastAPI) -> None:
        super().__init__(uvicorn_config(config, app))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopping = asyncio.create_task(self._app.state.gateway.stop())
        try:
            await super().shutdown(sockets)
        finally:
            stopping.cancel()


def uvicorn_config(config: GatewayConfig, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        # httptools, which uvicorn would take where it is installed, loses the body of a request that offers HTTP/2.
        http="h11",
        ws="none",
        # Longer than nginx keeps its own (60 s): else it may send a request as the connection is being closed.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=config.stop_within_s,
        access_log=False,  # the gateway's own lines say more
        log_config=None,
        server_header=False,
    )
