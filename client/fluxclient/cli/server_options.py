"""Options that several subcommands have, and the client that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluxclient.async_client import AsyncFluxClient
from fluxclient.cli.number_parsers import number, whole
from fluxclient.core import DEFAULT_TIMEOUT_S

_SERVER = "Server"

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="FLUXCLIENT_URL",
        metavar="URL",
        help="Server: grpc://host:8001 or http://host:8000.",
        rich_help_panel=_SERVER,
    ),
]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Model on the server.", rich_help_panel=_SERVER)]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        parser=number(0.001),
        metavar="SECONDS",
        help="Longest that a request may take.",
        rich_help_panel=_SERVER,
    ),
]
MetricsUrl = Annotated[
    str | None,
    typer.Option(
        "--metrics-url",
        envvar="FLUXCLIENT_METRICS_URL",
        metavar="URL",
        help="Where the server's metrics are.",
        show_default="http://<host>:8002/metrics",
        rich_help_panel=_SERVER,
    ),
]
Concurrency = Annotated[
    int,
    typer.Option("--concurrency", parser=whole(1), metavar="N", help="Requests at a time.", rich_help_panel=_SERVER),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing but errors.")]


def connect(
    url: str, model: str, *, timeout: float | None = DEFAULT_TIMEOUT_S, retries: int, metrics_url: str | None = None
) -> AsyncFluxClient:
    """A client for these options. Raises BadParameter for an address that is none."""
    try:
        return AsyncFluxClient(url, model=model, timeout=timeout, retries=retries, metrics_url=metrics_url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def read_text(file: Path, name: str) -> str:
    """The text in a file that the option or argument `name` names. Raises BadParameter where it cannot be read."""
    try:
        return decode(file.read_bytes(), str(file), name)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint=name) from None


def decode(content: bytes, source: str, name: str) -> str:
    try:
        return content.decode("utf-8-sig")  # Windows' editors begin files with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise typer.BadParameter(f"{source} is not UTF-8 text in line {line}", param_hint=name) from None
