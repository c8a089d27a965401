"""Options of the command that are inputs of the model."""

from __future__ import annotations

from typing import Any

import typer

from fluxclient.cli.number_parsers import number, whole
from fluxclient.inputs.options import BY_NAME


def model_option(name: str, **settings: Any) -> Any:
    """typer's option for an input: its flag, its help, and of a number what is the least; what is the most, the server
    knows."""
    item = BY_NAME[name]
    if item.is_whole:
        settings.setdefault("parser", whole(int(item.least)))
    elif item.datatype == "FP32":
        settings.setdefault("parser", number(item.least))
    return typer.Option(item.flag, help=item.help, **settings)
