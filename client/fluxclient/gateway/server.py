"""The gateway as a process."""

from __future__ import annotations

import logging.config
import signal
import sys

import uvicorn
from fastapi import FastAPI

from fluxclient.gateway.app import create_app
from fluxclient.gateway.config import GatewayConfig

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
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
    server = uvicorn.Server(uvicorn_config(config, app))
    # uvicorn raises the signal again once it has stopped, which shall be no death of the process but its end.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def uvicorn_config(config: GatewayConfig, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        timeout_graceful_shutdown=config.stop_within_s,
        access_log=False,  # the gateway's own lines say more
        log_config=None,
        server_header=False,
    )
