"""The values of parameters: from their text, or a ValueError that says what is allowed.

By hand: pydantic would come into the process of the model for this alone, and say less of where a value came from.
"""

from __future__ import annotations

from collections.abc import Callable

QUANTIZATIONS = ("none", "int8_weight_only", "int8_dynamic", "fp8_weight_only", "fp8_dynamic", "nvfp4", "nf4")

COMPILE_MODES = ("off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def text(value: str) -> str:
    return value


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value.lower()

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            found = int(value)
        except ValueError:
            found = low - 1
        if not low <= found <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return found

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            found = float(value)
        except ValueError:
            found = float("nan")
        if not low <= found <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return found

    return parse


def or_auto(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parse_or_auto(value: str) -> object:
        if value.lower() == "auto":
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None

    return parse_or_auto


def or_none(value: str) -> str:
    return "" if value.lower() == "none" else value


def or_off(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parse_or_off(value: str) -> object:
        if value.lower() == "off":
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or off") from None

    return parse_or_off


def switch(value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise ValueError("must be on or off")
    return value.lower() == "on"


def quantization_method(value: str) -> str:
    kind, _, file = value.partition(":")
    if kind.lower() == "gguf" and file:
        return f"gguf:{file}"
    if value.lower() not in QUANTIZATIONS:
        raise ValueError(f"must be one of {', '.join(QUANTIZATIONS)}, or gguf:FILE")
    return value.lower()
