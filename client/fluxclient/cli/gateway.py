"""`fluxclient gateway`: serves OpenAI's Images API in front of a Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluxclient.cli.numbers import whole
from fluxclient.cli.options import DEFAULT_MODEL, DEFAULT_TIMEOUT_S, DEFAULT_URL, MetricsUrl, Model, Timeout, Url


def gateway(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0: everywhere.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option("--port", parser=whole(0, 65535), metavar="PORT", help="0: any free one.")
    ] = 8080,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="API keys, one a line: KEY or NAME:KEY. Else all may call."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="LIMIT", help="Most requests of each key, or of each address: 60/minute."),
    ] = None,
    url: Url = DEFAULT_URL,
    model: Model = DEFAULT_MODEL,
    metrics_url: MetricsUrl = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Serve OpenAI's Images API, and a page for people, in front of the server.

    Stays in the foreground until Ctrl-C or SIGTERM,
    and answers what is in flight before it ends.
    """
    try:
        from fluxclient.gateway.config import GatewayConfig
        from fluxclient.gateway.server import serve
    except ImportError as error:
        problem = f"{error.name} is not installed; the gateway needs: pip install 'fluxclient[gateway]'"
        raise typer.BadParameter(problem, param_hint="gateway") from None
    try:
        config = GatewayConfig(
            host=host,
            port=port,
            url=url,
            metrics_url=metrics_url,
            model=model,
            keys=keys,
            rate=rate,
            timeout_s=timeout,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate") from None
    serve(config)  # which tells itself what else is wrong
