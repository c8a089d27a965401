"""`fluxclient gateway`: serves OpenAI's Images API in front of a Triton server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fluxclient.cli.number_parsers import whole
from fluxclient.cli.server_options import MetricsUrl, Model, Timeout, Url
from fluxclient.core import DEFAULT_MODEL, DEFAULT_TIMEOUT_S, DEFAULT_URL

if TYPE_CHECKING:
    from fluxclient.gateway.fields import ResponseFormat


def _or_variable(name: str, metavar: str, text: str) -> Any:
    """An option that an environment variable can give as well."""
    variable = f"FLUXCLIENT_GATEWAY_{name.replace('-', '_').upper()}"
    return typer.Option(f"--{name}", envvar=variable, metavar=metavar, help=text)


def _memory(name: str, which: str) -> Any:
    """A limit of the pictures `which` the gateway holds."""
    text = f"Most bytes of pictures {which}."
    return typer.Option(f"--max-{name}-mib", parser=whole(1), metavar="MIB", help=text, rich_help_panel="Memory")


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
    alias: Annotated[
        list[str] | None,
        _or_variable(
            "alias",
            "NAME",
            "Another name for the model, as clients have it built in: gpt-image-1. Several times for several.",
        ),
    ] = None,
    response_format: Annotated[
        str, _or_variable("response-format", "FORMAT", "For requests that do not say: b64_json or url.")
    ] = "b64_json",
    public_url: Annotated[
        str | None,
        _or_variable(
            "public-url", "URL", "What addresses in answers begin with, behind a proxy: https://flux.example."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        _or_variable(
            "allow-origin",
            "ORIGIN",
            "A site whose pages may call: https://app.example, or * for all. Several times for several.",
        ),
    ] = None,
    max_uploads_mib: Annotated[int, _memory("uploads", "that all requests in flight have sent")] = 256,
    max_jobs_mib: Annotated[int, _memory("jobs", "that are kept for jobs")] = 256,
    max_files_mib: Annotated[int, _memory("files", "that are kept for addresses (response_format url)")] = 256,
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
        from fluxclient.gateway.config import MIB, GatewayConfig
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
            aliases=tuple(alias or ()),
            response_format=cast("ResponseFormat", response_format),  # which it checks
            public_url=public_url,
            allow_origins=tuple(allow_origin or ()),
            keys=keys,
            rate=rate,
            timeout_s=timeout,
            max_uploads_bytes=max_uploads_mib * MIB,
            max_jobs_bytes=max_jobs_mib * MIB,
            max_files_bytes=max_files_mib * MIB,
        )
    except ValueError as error:
        option, _, problem = str(error).partition(": ")
        raise typer.BadParameter(problem, param_hint=f"--{option}") from None
    serve(config)  # which tells itself what else is wrong
