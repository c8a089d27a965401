"""Numbers on the command line, with errors that say what was sent and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import typer


def whole(least: int, most: int | None = None) -> Callable[[str | int], int]:
    """A parser for typer."""
    allowed = f"{least} or more" if most is None else f"{least} to {most}"

    def parse(text: str | int) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise typer.BadParameter(f"is {text!r}; must be an integer, {allowed}")
        return number

    return parse


def number(least: float) -> Callable[[str | float], float]:
    """A parser for typer."""

    def parse(text: str | float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise typer.BadParameter(f"is {text!r}; must be a number, {least:g} or more")
        return value

    return parse
